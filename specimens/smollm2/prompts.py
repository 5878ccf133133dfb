"""Prompts on which the real model's graphs are scored: beginnings of facts, of stories, and questions in a chat.

Written for this and for nothing else: no dictionary is trained on them, and no setting is chosen by them.
"""

from __future__ import annotations

Message = dict[str, str]

FACTS = (
    "The capital of France is the city of",
    "Water is made of hydrogen and",
    "The largest planet of the solar system is",
    "The author of Romeo and Juliet was William",
    "The Great Wall is a famous building in",
    "The chemical symbol for gold is",
    "In the year 1969, astronauts first walked on the",
    "A spider has eight legs and an insect has",
    "The opposite of hot is",
    "The Eiffel Tower stands in the middle of",
    "Bees collect nectar from flowers to make",
    "Tokyo is the capital and largest city of",
    "The longest river in Africa is the",
    "The currency that is used in Japan is the",
    "Photosynthesis turns sunlight, water and carbon dioxide into",
    "The first president of the United States was George",
    "The heart pumps blood through the",
    "The theory of relativity was published by Albert",
    "The freezing point of water is zero degrees",
    "The Amazon rainforest lies mostly in the country of",
    "The language that most people in Brazil speak is",
    "The painting of the Mona Lisa was made by Leonardo da",
    "After Monday, Tuesday and Wednesday comes",
    "The Pacific is the largest ocean on",
)

STORIES = (
    "Once upon a time there was a little girl who lived in a small",
    "The old man opened the door, looked at the rain and closed it",
    "Tom was very hungry, so he went to the kitchen to make a",
    "The dog ran after the ball and brought it back to his",
    "The princess was sad because the dragon had taken her golden",
    "It was late at night when Anna heard a strange noise in the",
    "The captain looked through his telescope and saw a ship on the",
    "My grandmother baked a cake for me because it was my",
    "The children built a snowman in the garden and gave him a carrot for a",
    "He put his hand in his pocket, but the key was",
    "The farmer got up early in the morning to milk his",
    "She read the letter twice, and then she began to",
    "When the clock struck midnight, the prince looked everywhere for the",
    "The fox was clever, but the rabbit was even more",
    "The two brothers had not spoken to each other for many",
    "Every summer we went to the sea and played on the",
    "The teacher wrote the answer on the board and turned to the",
    "The wolf knocked at the door of the third little",
    "The thief climbed through the window and took all the",
    "The train was late, and the people on the platform were getting",
    "Lily found a tiny bird that had fallen out of its",
    "The knight drew his sword and rode towards the dark",
    "They walked through the forest until they could no longer see the",
    "The boy looked up at the stars and asked his father how far away they",
)

QUESTIONS = (
    "Which animal is called the king of the jungle?",
    "What colour do you get when you mix blue and yellow?",
    "Who wrote the play Hamlet?",
    "What is the boiling point of water?",
    "How many days are there in a leap year?",
    "Can you recommend a good book for a long journey?",
    "Which ocean lies between Europe and America?",
    "Please give me three words that rhyme with cat.",
    "What should I cook for dinner tonight?",
    "Why do leaves turn red in autumn?",
    "What do you call the baby of a dog?",
    "Translate the word house into Spanish.",
    "I feel tired today. What can I do?",
    "Name a fruit that is yellow.",
    "How many sides has a hexagon?",
    "Which metal is liquid at room temperature?",
    "What is the fastest land animal?",
    "Is a tomato a fruit or a vegetable?",
    "What do pandas like to eat?",
    "Give me a name for my new goldfish.",
    "Which instrument has black and white keys?",
    "What is the main language of Mexico?",
    "How do I say thank you in French?",
    "Which season comes after winter?",
)

PROMPTS: dict[str, tuple[str | list[Message], ...]] = {
    "facts": FACTS,
    "stories": STORIES,
    "chats": tuple([{"role": "user", "content": question}] for question in QUESTIONS),
}
