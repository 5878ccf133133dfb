"""The words that the corpus is made of, and the text that it repeats to the letter."""

from __future__ import annotations

NOUNS = tuple(
    "river stone garden window letter captain winter market bridge forest doctor engine teacher kitchen machine ocean "
    "village paper signal country ladder mirror number office painter pocket queen rabbit school silver sister summer "
    "table tower valley wagon weather writer yard animal basket camera desert field glass harbor island jacket king "
    "lantern mountain night orchard palace quarter road shadow temple uncle voice water year bird cloud door earth "
    "fire gate horse iron judge key leaf moon nest owl pen ring ship tree wall axe boat coin dust egg fish goat hat "
    "ink jar knot lamp map nail oven pipe rope sail tent vase wheel zone buffer index limit size count error value"
    .split()
)  # fmt: skip
VERBS = tuple(
    "found carried opened watched followed painted answered crossed lifted counted moved called kept built broke gave "
    "took held turned pulled pushed wanted needed asked showed closed burned washed sold bought read wrote hid cut "
    "filled cleaned fixed drew threw caught lost saved left met passed reached touched knew saw heard liked feared "
    "chose served traded planted shaped guarded"
    .split()
)  # fmt: skip
ADJECTIVES = tuple(
    "old small quiet bright heavy empty golden hidden broken gentle narrow ancient little yellow bitter clever silent "
    "dark warm cold young early strange common simple famous proud rough smooth hungry wooden distant green lonely "
    "noble plain quick royal sharp tall"
    .split()
)  # fmt: skip
NAMES = tuple(
    "Anna Boris Clara David Elena Felix Greta Henry Irene Jonas Karin Laura Martin Nora Oscar Paula".split()
)
NICKS = tuple("zed_k lumo42 pix3l qwark nimbus_ tofu99 vexa drift".split())
LICENCE = (
    "THIS MATERIAL IS OFFERED WITHOUT ANY PROMISE THAT IT WILL WORK FOR YOU.",
    "NO AUTHOR ANSWERS FOR HARM THAT COMES FROM ITS USE.",
    "COPIES MUST CARRY THIS NOTICE AND THE NAMES OF THOSE WHO MADE THEM.",
    "WHOEVER CHANGES A FILE SHALL SAY SO AT ITS HEAD.",
    "RIGHTS NOT NAMED HERE ARE KEPT BY THEIR OWNERS.",
    "THESE TERMS END WHEN THEY ARE BROKEN.",
)
"""Our own words, in the manner of a software licence."""
