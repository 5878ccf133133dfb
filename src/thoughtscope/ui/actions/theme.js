// @ts-check
// Light, dark, or as the system has it.
import { setState } from "../store.js";

const KEY = "thoughtscope-theme";

export function savedTheme() {
  try {
    return localStorage.getItem(KEY) ?? "auto";
  } catch {
    return "auto";
  }
}

export function setTheme(theme) {
  setState({ theme });
  try {
    localStorage.setItem(KEY, theme);
  } catch { /* a private window: the choice lasts for this page */ }
}
