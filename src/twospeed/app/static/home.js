// The home page: videos of the folder, projects, upload.
import { $, h, notify } from "./dom.js";
import { getJson, post, request } from "./api.js";

const CHUNK = 4 << 20;

export function showHome(home, go) {
  const open = async (wanted, button) => {
    button.disabled = true;
    button.textContent = "Opening…";
    try {
      go((await post("projects", wanted)).project);
    } catch (error) {
      notify(error.message, { error: true });
      button.disabled = false;
      button.textContent = "Open";
    }
  };
  const byName = new Map(home.projects.map((project) => [project.name, project]));
  const rows = home.videos.map((video) => {
    const project = byName.get(video.name);
    const button = h("button", { class: "main", text: "Open", "aria-label": `Open ${video.name}` });
    button.addEventListener("click", () => (project ? go(project.id) : open({ video: video.id }, button)));
    return h("li", { class: video.outside ? "outside" : "" },
      project ? h("img", { src: `/api/p/${project.id}/frame/0?h=96`, alt: "", width: 96 }) : h("div", { class: "thumb" }),
      h("div", { class: "grow" },
        h("div", { class: "name", text: video.name }),
        h("div", { class: "quiet", text: describe(video, project) })),
      video.outside ? null : button);
  });
  const runs = home.runs.map((run) => {
    const button = h("button", { text: "Show", "aria-label": `Show ${run.name}` });
    button.addEventListener("click", () => open({ run: run.id }, button));
    return h("li", {}, h("div", { class: "grow" }, h("div", { class: "name", text: run.name }),
      h("div", { class: "quiet", text: `${run.command} of ${run.video} · ${run.model} · ${run.frames} frames${run.finished ? "" : " · not finished"}` })), button);
  });
  const names = new Set(home.videos.map((video) => video.name));
  const lost = home.projects.filter((project) => !project.run && !names.has(project.name)).map((project) =>
    h("li", {}, h("div", { class: "grow" }, h("div", { class: "name", text: project.name }),
      h("div", { class: "quiet", text: `its video is not there any more · ${describeProject(project)}` })),
    h("button", { text: "Open", "aria-label": `Open ${project.name}`, onclick: () => go(project.id) })));
  const section = (title, rows) => rows.length ? [h("h2", { text: title }), h("ul", { class: "videos" }, rows)] : [];
  const picker = h("input", { type: "file", accept: "video/*,.mkv,.mts,.ts", hidden: true, multiple: true });
  const again = async () => showHome(await getJson("home"), go);
  picker.addEventListener("change", () => uploadAll([...picker.files], again));
  const page = h("main", { class: "home" },
    h("header", { class: "bar" }, h("strong", { text: "twospeed" }), h("span", { class: "quiet", text: home.folder })),
    h("div", { class: "home-body" },
      h("div", { class: "row" },
        h("h1", { class: "grow", text: "Videos" }),
        h("span", { class: "quiet", text: `${(home.free / 2 ** 30).toFixed(0)} GB free` }),
        h("button", { text: "Upload a video…", onclick: () => picker.click() }), picker),
      rows.length ? h("ul", { class: "videos" }, rows)
        : h("p", { class: "empty", text: "There is no video in this folder. Drop one here, or upload it." }),
      section("Results of the command line", runs), section("Projects without their video", lost),
      h("p", { class: "quiet", text: "Open a video, mark an object, track it, export it. Everything is saved as you go; the "
        + "video itself is never changed." })));
  page.addEventListener("dragover", (event) => event.preventDefault());
  page.addEventListener("drop", (event) => {
    event.preventDefault();
    uploadAll([...event.dataTransfer.files], again);
  });
  $("page").replaceChildren(page);
}

function describe(video, project) {
  const size = video.is_folder ? "folder of images" : `${(video.bytes / 2 ** 20).toFixed(1)} MB`;
  if (video.outside) return `${size} · a link that leads out of the folder; it is not opened`;
  if (!project) return size;
  return `${size} · ${describeProject(project)}`;
}

function describeProject(project) {
  const objects = `${project.objects} object${project.objects === 1 ? "" : "s"}`;
  return `${project.frames} frames · ${objects} · masks on ${Math.round(100 * project.share)} %`;
}

async function uploadAll(files, done) {
  for (const file of files) {
    try {
      await upload(file);
    } catch (error) {
      notify(`${file.name}: ${error.message}`, { error: true });
      return;
    }
  }
  done();
}

async function upload(file) {
  let offset = 0;
  while (offset < file.size) {
    const query = { offset, size: file.size };
    try {
      await request("PUT", `uploads/${encodeURIComponent(file.name)}`, { body: file.slice(offset, offset + CHUNK), query });
      offset = Math.min(offset + CHUNK, file.size);
    } catch (error) {
      if (error.body?.offset === undefined || error.body.offset === offset) throw error;
      offset = error.body.offset;
    }
    notify(`Uploading ${file.name}: ${Math.round((100 * offset) / file.size)} %`);
  }
}
