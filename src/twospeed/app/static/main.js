// Log in, then show the home page or a project, as the address says.
import { $, h, notify } from "./dom.js";
import { getJson, login, post } from "./api.js";
import { tokenForm } from "./login.js";
import { showHome } from "./home.js";
import { openEditor } from "./editor.js";

let editor = null;

async function route() {
  editor?.close();
  editor = null;
  const project = new URLSearchParams(location.search).get("p");
  let home = null;
  try {
    home = await getJson("home");
    if ((home.open || home.open_run) && !project) {
      const opened = await post("projects", home.open ? { video: home.open } : { run: home.open_run });
      history.replaceState(null, "", `/?p=${encodeURIComponent(opened.project)}`);
      editor = await openEditor(opened.project, home, leave);
    } else if (project) {
      editor = await openEditor(project, home, leave);
    } else {
      document.title = "twospeed";
      showHome(home, go);
    }
  } catch (error) {
    if (error.status === 401) askToken();
    else {
      notify(error.message, { error: true });
      if (project) go(null);
      else if (home) showHome(home, go);
    }
  }
}

function go(project) {
  history.pushState(null, "", project ? `/?p=${encodeURIComponent(project)}` : "/");
  route();
}

const leave = () => go(null);

function askToken() {
  const form = tokenForm("Open the address that `twospeed app` printed in the terminal, or paste it here.", route);
  form.prepend(h("h1", { text: "twospeed" }));
  $("page").replaceChildren(h("main", { class: "center" }, form));
  form.querySelector("input").focus();
}

addEventListener("popstate", route);
addEventListener("hashchange", start);

async function start() {
  try {
    await login();
  } catch (error) {
    notify(error.message, { error: true });
  }
  await route();
}
start();
