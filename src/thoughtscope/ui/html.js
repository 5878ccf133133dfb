// @ts-check
// The one place where preact and htm meet: `html` builds virtual nodes, and text in them is always escaped.
import { h } from "./vendor/preact.mjs";
import { htm } from "./vendor/htm.mjs";

export const html = htm.bind(h);
