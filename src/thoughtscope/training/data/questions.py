"""Questions to a chat model, for documents of its own where there is no text: forms of asking, and things to ask about.

A question is a form of one kind with something of that kind in it. There are some three thousand and as many sums,
drawn in an order that a seed decides; answers range over facts, explanations, stories, lists, sums and plain talk.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

COUNTRIES = (
    "Argentina, Australia, Austria, Bangladesh, Belgium, Bolivia, Brazil, Bulgaria, Cambodia, Cameroon, Canada, "
    "Chile, China, Colombia, Croatia, Cuba, Denmark, Ecuador, Egypt, Ethiopia, Finland, France, Germany, Ghana, "
    "Greece, Hungary, Iceland, India, Indonesia, Iran, Iraq, Ireland, Israel, Italy, Jamaica, Japan, Jordan, "
    "Kenya, Laos, Lebanon, Libya, Madagascar, Malaysia, Mali, Mexico, Mongolia, Morocco, Nepal, the Netherlands, "
    "New Zealand, Nigeria, Norway, Pakistan, Panama, Paraguay, Peru, the Philippines, Poland, Portugal, Romania, "
    "Russia, Senegal, Serbia, Singapore, Somalia, South Africa, South Korea, Spain, Sri Lanka, Sudan, Sweden, "
    "Switzerland, Syria, Tanzania, Thailand, Tunisia, Turkey, Uganda, Ukraine, the United Kingdom, the United "
    "States, Uruguay, Venezuela, Vietnam, Yemen, Zambia, Zimbabwe"
).split(", ")
ANIMALS = (
    "an ant, a bat, a bear, a beaver, a bee, a butterfly, a camel, a cat, a chicken, a cow, a crab, a crocodile, "
    "a deer, a dog, a dolphin, a donkey, an eagle, an elephant, a fox, a frog, a giraffe, a goat, a hamster, a "
    "hedgehog, a horse, a jellyfish, a kangaroo, a koala, a lion, a lizard, a monkey, a moose, a mouse, an "
    "octopus, an ostrich, an otter, an owl, a panda, a parrot, a penguin, a pig, a pigeon, a polar bear, a "
    "rabbit, a raccoon, a rhinoceros, a salmon, a seal, a shark, a sheep, a snail, a snake, a spider, a squirrel, "
    "a swan, a tiger, a tortoise, a whale, a wolf, a zebra"
).split(", ")
TOPICS = (
    "algebra, ancient Egypt, ancient Rome, antibiotics, architecture, artificial intelligence, asteroids, baking, "
    "banks, basketball, batteries, beer, bicycles, black holes, blood, bridges, bread, cameras, carbon dioxide, "
    "cheese, chemistry, chess, chocolate, cinema, clocks, clouds, coffee, comets, computers, coral reefs, crime "
    "novels, dark matter, democracy, deserts, dinosaurs, DNA, dreams, earthquakes, electricity, electric cars, "
    "email, evolution, exercise, fashion, fire, fishing, flowers, football, forests, fractions, friendship, "
    "gardening, geometry, glaciers, gold, grammar, gravity, guitars, haiku, health insurance, hurricanes, ice "
    "cream, inflation, insects, jazz, kites, languages, lasers, law, libraries, light, lightning, magnets, maps, "
    "marriage, medicine, memory, money, the Moon, mountains, music, mythology, nuclear power, oceans, the Olympic "
    "Games, painting, paper, photosynthesis, physics, pianos, planets, plastic, poetry, pollution, prime numbers, "
    "printing, probability, programming in Python, quantum mechanics, radio, railways, rain, recycling, rice, "
    "rivers, robots, rockets, salt, satellites, schools, ships, silk, sleep, smartphones, snow, soap, solar "
    "energy, spices, stars, steel, sugar, swimming, taxes, tea, telescopes, tennis, theatre, tides, time zones, "
    "tomatoes, trees, vaccines, video games, vitamins, volcanoes, voting, water, weather forecasts, windmills, "
    "wine, wool, writing, yoga, zoos"
).split(", ")
PEOPLE = (
    "an actor, an astronaut, a baker, a banker, a builder, a carpenter, a chef, a child, a dentist, a detective, "
    "a doctor, an engineer, a farmer, a firefighter, a fisherman, a gardener, a grandmother, a judge, a king, a "
    "knight, a lawyer, a librarian, a musician, a nurse, a painter, a pilot, a pirate, a plumber, a poet, a "
    "police officer, a prince, a queen, a robot, a sailor, a scientist, a soldier, a student, a tailor, a taxi "
    "driver, a teacher, a tourist, a wizard"
).split(", ")
FORMS = {
    "country": (
        "What is the capital of {}?", "Tell me about {}.", "What language do people speak in {}?",
        "Which countries share a border with {}?", "What food is {} known for?", "Write a short travel guide to {}.",
        "Name three cities in {}.", "What is the weather like in {}?", "Describe the flag of {}.",
        "Who is a famous person from {}?", "What currency is used in {}?",
        "I am going to {} next week. What should I pack?",
    ),
    "animal": (
        "What does {} eat?", "Write a short story about {}.", "Where does {} live?", "How long does {} live?",
        "Write a poem about {}.", "Describe {} to somebody who has never seen one.", "What sound does {} make?",
        "My daughter saw {} today. What can I tell her about it?",
    ),
    "topic": (
        "Explain {} in simple terms.", "Why is it worth knowing something about {}?", "Tell me a fact about {}.",
        "What is the history of {}?", "Write a short essay on {}.", "Give me five words that have to do with {}.",
        "What do beginners get wrong about {}?", "Write a dialogue between two friends who talk about {}.",
        "What are the good and the bad sides of {}?", "Write a joke about {}.", "How would you teach {} to a child?",
    ),
    "person": (
        "Write a story about {} who is afraid of the dark.", "Describe a day in the life of {}.",
        "Write a letter from {} to a friend.", "What does {} need to know?", "Write a short poem about {} in winter.",
        "What would {} say about rain?", "Give some advice to somebody who wants to be {}.",
    ),
}  # fmt: skip
THINGS = {"country": COUNTRIES, "animal": ANIMALS, "topic": TOPICS, "person": PEOPLE}
SUMS = ("What is {} plus {}?", "Calculate {} + {}.", "I have {} apples and get {} more. How many are there?")
SUM_SHARE = 20
"""One question in this many is a sum."""


def questions(seed: int) -> Iterator[str]:
    """Questions without end, the same ones for the same seed."""
    draw = Random(f"questions {seed}")
    kinds = list(FORMS)
    while True:
        if draw.randrange(SUM_SHARE) == 0:
            yield draw.choice(SUMS).format(draw.randrange(1, 100), draw.randrange(1, 100))
        else:
            kind = draw.choice(kinds)
            yield draw.choice(FORMS[kind]).format(draw.choice(THINGS[kind]))
