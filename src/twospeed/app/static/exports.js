// The dialog of exports.
import { dialog, h, notify } from "./dom.js";
import { post, request } from "./api.js";

export function exportDialog(editor) {
  const { store, home } = editor, { state } = store;
  const there = (needs) => (needs === "masks" ? store.objects.length > 0 : state.results.includes(needs));
  const groups = new Map();
  for (const one of home.exports) {
    if (!there(one.needs)) continue;
    groups.set(one.group, [...(groups.get(one.group) ?? []), one]);
  }
  if (!groups.size) {
    notify("There is nothing to export yet: mark an object first.");
    return;
  }
  const soft = h("input", { type: "checkbox", checked: true }), layers = h("input", { type: "checkbox" });
  const premultiplied = h("input", { type: "checkbox" });
  const background = h("input", { type: "color", value: "#00ff00", "aria-label": "Colour of the new background" });
  const chosen = new Map(store.objects.map(({ id, name }) => [id, h("input", { type: "checkbox", checked: true, "aria-label": `Export ${name}` })]));
  const objects = () => [...chosen].filter(([, box]) => box.checked).map(([id]) => id);
  const options = () => ({ objects: objects(), soft: soft.checked, layers: layers.checked, premultiplied: premultiplied.checked, background: background.value,
    threshold: editor.panel.threshold });
  const row = ({ as, text }) => {
    const status = h("span", { class: "quiet" }), button = h("button", { text: "Write", "aria-label": `Write ${text}` });
    const item = h("li", { "data-export": as }, h("span", { class: "grow", text }), status, button);
    let running = false;
    const busy = (now) => {
      running = now;
      button.textContent = now ? "Stop" : "Write";
      button.setAttribute("aria-label", now ? `Stop writing ${text}` : `Write ${text}`);
    };
    const show = (message) => {
      if (message.file !== item.dataset.file) return;
      busy(message.state === "running");
      if (message.state === "running") status.textContent = message.total ? `${message.done} of ${message.total}` : "starting";
      else if (message.state === "failed") status.textContent = message.error;
      else if (message.state === "stopped") status.textContent = "stopped";
      else {
        const address = `/api/${editor.base}/exports/${encodeURIComponent(message.file)}`;
        status.replaceChildren(h("a", { href: address, download: message.file, text: `Download ${message.file}` }));
      }
    };
    store.addEventListener("export", (event) => show(event.detail));
    button.addEventListener("click", async () => {
      if (running) {
        if (item.dataset.file) {
          request("DELETE", `${editor.base}/exports/${encodeURIComponent(item.dataset.file)}`).catch((error) => editor.fail(error));
        }
        return;
      }
      delete item.dataset.file;
      busy(true);
      try {
        if (chosen.size && !objects().length) throw new Error("Choose at least one object above.");
        await editor.edits.keepPreview();
        status.textContent = "starting";
        item.dataset.file = (await post(`${editor.base}/exports`, { as, ...options() })).file;
        const known = editor.exports.get(item.dataset.file);
        if (known) show(known);
      } catch (error) {
        status.textContent = error.message;
        busy(false);
      }
    });
    return item;
  };
  const tick = (box, text) => h("label", { class: "row" }, box, text);
  dialog("Export", h("p", { class: "quiet", text: `Frames ${state.in} to ${state.out} (the in and out points). `
    + "Files are also kept in the project's folder, exports." }),
  chosen.size > 1 ? h("fieldset", { class: "row wrap" }, h("legend", { text: "Objects" }),
    store.objects.map(({ id, name }) => tick(chosen.get(id), name))) : null,
  h("div", { class: "export-groups" }, [...groups].map(([name, rows]) => h("section", {}, h("h3", { text: name }),
    name === "Cut-outs" ? h("div", { class: "row wrap" }, tick(soft, "soft edges"), tick(layers, "a file for each object"),
      tick(premultiplied, "premultiplied alpha"), h("label", { class: "row" }, background, "new background")) : null,
    h("ul", { class: "exports" }, rows.map(row))))));
}
