// The token that `twospeed app` prints, asked for.
import { h, notify } from "./dom.js";
import { post } from "./api.js";

/** A form that takes the token, or the whole address, and calls done() once it is right. */
export function tokenForm(text, done) {
  const field = h("input", { type: "password", "aria-label": "Token", autocomplete: "off" });
  const send = async (event) => {
    event.preventDefault();
    try {
      await post("login", { token: field.value.trim().replace(/^.*token=/, "") });
      done();
    } catch (error) {
      notify(error.message, { error: true });
    }
  };
  return h("form", { class: "token", onsubmit: send }, h("p", { text }), field, h("button", { class: "main", text: "Log in" }));
}
