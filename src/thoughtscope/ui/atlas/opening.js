// @ts-check
// Opening a feature, and going through what is listed.
import { focusOf } from "./address.js";
import { getAtlas, setAtlas } from "./state.js";

/** Opens a feature; `follow` also brings it into the middle of a map that is looked at from near. */
export function openFeature(feature, { follow = false } = {}) {
  const { index, place } = getAtlas();
  setAtlas({ feature });
  if (follow && feature !== null && index?.place && place.scale > 1.5 && !Number.isNaN(index.place[2 * feature])) {
    setAtlas({ place: focusOf(index, feature, place.scale) });
  }
}
