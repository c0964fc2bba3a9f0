// Elements and messages. Text only ever becomes text: nothing here parses HTML.

/** Make an element. props: attributes; `on...` are listeners, `text` is its text, false and null leave one out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Show a message at the top: an error stays until it is closed, anything else goes by itself. */
export function notify(text, { error = false, action = null } = {}) {
  const banner = $("banner");
  const close = h("button", { class: "plain", text: "Close", onclick: () => (banner.hidden = true) });
  banner.replaceChildren(h("span", { text }), ...(action ? [action] : []), close);
  banner.className = error ? "error" : "";
  banner.hidden = false;
  clearTimeout(notify.timer);
  if (!error && !action) notify.timer = setTimeout(() => (banner.hidden = true), 4000);
}

/** Say something to people who listen to the page. */
export function announce(text) {
  $("live").textContent = text;
}

/** Open a dialog with a title; returns it. It closes by Escape and by its button, and gives the focus back. */
export function dialog(title, ...content) {
  const opener = document.activeElement;
  const box = h("dialog", { "aria-label": title });
  const close = h("button", { text: "Close", onclick: () => box.close() });
  box.append(h("h2", { text: title }), ...content, h("div", { class: "row end" }, close));
  box.addEventListener("close", () => {
    box.remove();
    if (opener?.isConnected) opener.focus();
  });
  document.body.append(box);
  box.showModal();
  return box;
}

/** Seconds -> "m:ss.mmm". */
export function clock(seconds, digits = 3) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(digits).padStart(digits + 3, "0")}`;
}

export function base64ToBytes(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Let a view paint itself before the next frame of the screen: once, however often it is asked until then. */
export function paintSoon(view) {
  if (view.waiting) return;
  view.waiting = true;
  requestAnimationFrame(() => {
    view.waiting = false;
    view.paint();
  });
}
