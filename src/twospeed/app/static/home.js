// The home page: videos of the folder, projects, upload.
import { $, dialog, h, notify } from "./dom.js";
import { getJson, post, request } from "./api.js";

const CHUNK = 4 << 20;

export function showHome(home, go) {
  const again = async () => showHome(await getJson("home"), go);
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
  const byVideo = new Map(); // the project of a video with the most in it
  for (const project of [...home.projects].sort((a, b) => a.share - b.share)) {
    if (project.video && !project.run) byVideo.set(project.video, project);
  }
  const thumbnails = new Thumbnails();
  const rows = home.videos.map((video) => {
    const project = byVideo.get(video.id);
    const button = h("button", { class: "main", text: "Open", "aria-label": `Open ${video.name}` });
    button.addEventListener("click", () => (project ? go(project.id) : open({ video: video.id }, button)));
    return h("li", { class: video.outside ? "outside" : "" },
      video.outside ? h("div", { class: "thumb" }) : thumbnails.of(video),
      h("div", { class: "grow" },
        h("div", { class: "name", text: video.name, title: video.name }),
        h("div", { class: "quiet", text: describe(video, project) })),
      project ? deleteButton(project, again) : null, video.outside ? null : button);
  });
  const runs = home.runs.map((run) => {
    const button = h("button", { text: "Show", "aria-label": `Show ${run.name}` });
    button.addEventListener("click", () => open({ run: run.id }, button));
    return h("li", {}, h("div", { class: "grow" }, h("div", { class: "name", text: run.name, title: run.name }),
      h("div", { class: "quiet", text: `${run.command} of ${run.video} · ${run.model} · ${run.frames} frames${run.finished ? "" : " · not finished"}` })), button);
  });
  const videos = new Map(home.videos.map((video) => [video.id, video.name]));
  const others = home.projects.filter((project) => !project.run && byVideo.get(project.video) !== project).map((project) =>
    h("li", {}, h("div", { class: "grow" }, h("div", { class: "name", text: project.name, title: project.name }),
      h("div", { class: "quiet", text: `${videos.has(project.video) ? `of ${videos.get(project.video)}`
        : "its video is not there any more: open it to say where that is"} · ${describeProject(project)}` })),
    deleteButton(project, again),
    h("button", { text: "Open", "aria-label": `Open ${project.name}`, onclick: () => go(project.id) })));
  const section = (title, rows) => rows.length ? [h("h2", { text: title }), h("ul", { class: "videos" }, rows)] : [];
  const picker = h("input", { type: "file", accept: "video/*,.mkv,.mts,.ts", hidden: true, multiple: true });
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
      section("Results of the command line", runs), section("Other projects", others),
      h("p", { class: "quiet", text: "Open a video, mark an object, track it, export it. Everything is saved as you go; the "
        + "video itself is never changed." })));
  page.addEventListener("dragover", (event) => event.preventDefault());
  page.addEventListener("drop", (event) => {
    event.preventDefault();
    uploadAll([...event.dataTransfer.files], again);
  });
  $("page").replaceChildren(page);
  thumbnails.start();
}

/** First images of the videos that are in view, one request at a time: what somebody clicks on never waits for them. */
class Thumbnails {
  waiting = new Set();

  constructor() {
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.waiting.add(target);
        else this.waiting.delete(target);
      }
      this.pump();
    }, { rootMargin: "200px" });
    this.images = [];
  }

  of(video) {
    const image = h("img", { alt: "", width: 96, height: 54, "data-video": video.id });
    this.images.push(image);
    return image;
  }

  start() {
    for (const image of this.images) this.observer.observe(image);
  }

  async pump() {
    if (this.busy) return;
    const [image] = this.waiting;
    if (!image) return;
    this.waiting.delete(image);
    this.observer.unobserve(image);
    if (!image.isConnected) return this.observer.disconnect(); // another page is shown
    this.busy = true;
    image.src = `/api/videos/${image.dataset.video}/thumbnail`;
    await image.decode().catch(() => image.removeAttribute("src")); // a video without one keeps its grey box
    this.busy = false;
    this.pump();
  }
}

function deleteButton(project, again) {
  return h("button", { text: "Delete…", "aria-label": `Delete the project of ${project.name}`, onclick: () => {
    const box = dialog(`Delete the project of ${project.name}?`,
      h("p", { text: `Its marks and masks (${describeProject(project)}) go to the folder twospeed_projects/.trash, and are `
        + "removed from there after 7 days. The video stays." }),
      h("div", { class: "row" }, h("button", { text: "Delete the project", onclick: async () => {
        box.close();
        try {
          await request("DELETE", `p/${project.id}`);
          await again();
        } catch (error) {
          notify(error.message, { error: true });
        }
      } })));
  } });
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
