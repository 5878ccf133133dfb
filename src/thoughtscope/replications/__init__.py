"""Replications: experiments of published papers, done again, with a verdict by rule for each of their claims."""

from thoughtscope.replications.claims import HOLDS as HOLDS
from thoughtscope.replications.claims import Bound as Bound
from thoughtscope.replications.claims import Claim as Claim
from thoughtscope.replications.claims import Seen as Seen
from thoughtscope.replications.claims import Verdict as Verdict
from thoughtscope.replications.claims import judge as judge
from thoughtscope.replications.claims import read_claims as read_claims
from thoughtscope.replications.replication import REPLICATIONS as REPLICATIONS
from thoughtscope.replications.replication import REPORT as REPORT
from thoughtscope.replications.replication import Measured as Measured
from thoughtscope.replications.replication import Replicated as Replicated
from thoughtscope.replications.replication import Replication as Replication
from thoughtscope.replications.replication import replicate as replicate
from thoughtscope.replications.scaling import SCALING as SCALING
from thoughtscope.replications.towards import TOWARDS as TOWARDS
