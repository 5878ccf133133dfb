// @ts-check
// The server's token: where the page has none that fits, a person types it, and a cookie keeps it.
import { setState } from "../store.js";
import { source } from "./source.js";

/** Gives the token, or the one in a link, to the server. Throws what the server says against it. */
export async function login(typed) {
  const inLink = /[?&]token=([^&#]*)/.exec(typed);
  await source.login(inLink ? decodeURIComponent(inLink[1]) : typed.trim());
  setState({ locked: false });
}
