// @ts-check
// What stands in place of the page for those who have not shown the server's token.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.mjs";
import { login } from "../actions/login.js";

/** @param {{ start: () => Promise<void> }} props what opens the page once the server knows the token */
export function Login({ start }) {
  const [token, setToken] = useState("");
  const [refusal, setRefusal] = useState("");
  const [asking, setAsking] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setAsking(true);
    try {
      await login(token);
      await start();
    } catch (error) {
      setRefusal(/** @type {Error} */ (error).message);
      setAsking(false);
    }
  };
  return html`<form class="login" onSubmit=${submit}>
    <h1>This server asks for its token.</h1>
    <p class="lead">thoughtscope printed a link where it was started. Open that link, or paste it
      here; the part after <code>token=</code> will do.</p>
    <div class="row"><input id="token" type="password" autofocus value=${token} maxlength="2000" aria-label="Token"
      autocomplete="current-password" spellcheck="false" aria-invalid=${refusal ? "true" : "false"}
      aria-describedby="token-refusal" onInput=${(event) => setToken(event.target.value)} />
      <button class="primary" disabled=${asking || !token.trim()}>Open</button></div>
    <p id="token-refusal" class="refusal" role="alert">${refusal}</p>
  </form>`;
}
