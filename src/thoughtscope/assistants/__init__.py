"""Language models that are asked something: behind an OpenAI-compatible address, or in this process."""

from thoughtscope.assistants.asking import ask as ask
from thoughtscope.assistants.asking import only_here as only_here
from thoughtscope.assistants.endpoint import Endpoint as Endpoint
from thoughtscope.assistants.estimate import Destination as Destination
from thoughtscope.assistants.estimate import Estimate as Estimate
from thoughtscope.assistants.estimate import Prices as Prices
from thoughtscope.assistants.kept import KeptAnswers as KeptAnswers
from thoughtscope.assistants.local import Local as Local
from thoughtscope.assistants.requests import Answer as Answer
from thoughtscope.assistants.requests import Assistant as Assistant
from thoughtscope.assistants.requests import Request as Request
from thoughtscope.assistants.requests import Spoken as Spoken
from thoughtscope.assistants.requests import user_says as user_says
