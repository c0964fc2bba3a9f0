"""Every line of the security list, by a request that must be refused."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.app.client import Client, write_clip
from twospeed.app.security import HEADERS, Keys


def refusal(client, method="GET", path="/api/home", body=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, _, content = client.raw(method, path, body, named)
    return status, content


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost:80", "", "[::1]:1", None])
def test_other_hosts_are_refused(client, host):
    assert refusal(client, Host=host)[0] in (400, 403)


def test_own_names_are_answered(client):
    for host in (f"localhost:{client.port}", f"127.0.0.1:{client.port}", f"[::1]:{client.port}"):
        assert refusal(client, Host=host)[0] == 200


def test_two_host_headers_are_refused(app):
    with socket.create_connection(("127.0.0.1", app.port)) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\nHost: evil.example\r\n\r\n".encode())
        assert raw.recv(100).split()[1] == b"400"


@pytest.mark.parametrize("path", ["/api/home", "/api/p/x", "/api/openapi.json", "/api/nothing", "/nothing"])
def test_without_the_cookie_nothing_is_told(client, path):
    assert refusal(client, path=path, Cookie=None)[0] == 401
    assert refusal(client, path=path, Cookie=f"twospeed-{client.port}=wrong")[0] == 401
    assert refusal(client, path=path, Cookie=f"twospeed-{client.port}")[0] == 401


def test_the_cookie_is_for_this_page_alone(app):
    status, headers, _ = Client.raw(_anonymous(app), "POST", "/api/login", {"token": app.token})
    assert status == 204
    attributes = headers["set-cookie"].split("; ")[1:]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(attributes)


def _anonymous(app):
    client = Client.__new__(Client)
    client.port, client.cookie = app.port, ""
    return client


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1"])
def test_other_origins_may_not_write(client, origin):
    assert refusal(client, "POST", "/api/projects", {"video": "x"}, Origin=origin)[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_not_read(client, site):
    assert refusal(client, Sec_Fetch_Site=site)[0] == 403
    assert refusal(client, "POST", "/api/projects", {"video": "x"}, Sec_Fetch_Site=site)[0] == 403


def test_no_answer_allows_other_origins(client):
    _, headers, _ = client.raw("GET", "/api/home", headers={"Origin": "http://evil.example"})
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": None},
        {"Cookie": None},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_web_sockets_are_guarded_alike(client, clip, headers):
    project = client.open(clip)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": f"http://127.0.0.1:{client.port}",
    }
    status, _, _ = client.raw("GET", f"/api/p/{project}/live", headers={**upgrade, **headers})
    assert status == 403


def test_ten_wrong_tokens_are_enough():
    keys = Keys(1)
    assert all(keys.login("wrong") is None for _ in range(9))
    assert not keys.blocked
    keys.login("wrong")
    assert keys.blocked


def test_a_one_time_token_works_once():
    keys = Keys(1)
    once = keys.one_time()
    assert keys.login(once) is not None
    assert keys.login(once) is None
    assert keys.login(keys.token) is not None


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/..\\server.py",
        "/static/%00",
        "/api/p/../../etc",
        "/api/p/..",
        "/api/p/.trash",
        "/api/p/nothing",
        "/api/p/x%2fy",
    ],
)
def test_no_path_leads_out(client, path):
    status, content = refusal(client, path=path)
    assert status in (400, 404)
    assert b"import" not in content


def test_links_that_lead_out_are_shown_and_not_opened(client, app_folder, tmp_path):
    write_clip(tmp_path / "secret.mp4", 2)
    link = app_folder / "link.mp4"
    link.symlink_to(tmp_path / "secret.mp4")
    os.mkfifo(app_folder / "pipe.mp4")
    (app_folder / "outside").symlink_to(tmp_path)
    try:
        videos = {video["name"]: video for video in client("GET", "home")["videos"]}
        assert videos["link.mp4"]["outside"]
        assert "pipe.mp4" not in videos
        assert "outside/secret.mp4" not in videos
        status, error = client.refused("POST", "projects", {"video": videos["link.mp4"]["id"]})
        assert status == 400
        assert "leads out of the folder" in error
    finally:
        for name in ("link.mp4", "pipe.mp4", "outside"):
            (app_folder / name).unlink()


def test_a_project_that_becomes_a_link_is_not_followed(client, clip, app_folder, tmp_path):
    """The listing was checked; then somebody swaps the video for a link."""
    project = client.open(clip)
    write_clip(tmp_path / "secret.mp4", 3)
    (app_folder / clip).unlink()
    (app_folder / clip).symlink_to(tmp_path / "secret.mp4")
    status, error = client.refused("GET", f"p/{project}/frame/0")
    assert status == 400
    assert "leads out of the folder" in error


def test_playlists_are_not_videos(client, app_folder):
    (app_folder / "list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    try:
        video = next(v for v in client("GET", "home")["videos"] if v["name"] == "list.mp4")
        status, error = client.refused("POST", "projects", {"video": video["id"]})
        assert status == 400
        assert "names other files" in error
        assert str(app_folder) not in error
    finally:
        (app_folder / "list.mp4").unlink()


def test_bodies_are_limited(client):
    big = json.dumps({"video": "x" * (1 << 20)}).encode()
    assert refusal(client, "POST", "/api/projects", big, Content_Type="application/json")[0] == 413
    assert refusal(client, "POST", "/api/projects", b"{}", Content_Type="text/plain")[0] == 415
    assert refusal(client, "POST", "/api/projects", b"{}", Content_Type="application/json")[0] == 422
    assert refusal(client, "POST", "/api/projects", b"[", Content_Type="application/json")[0] == 422
    status, _, _ = client.raw("PUT", "/api/uploads/a.mp4?offset=0&size=9", b"", {"Content-Length": str(9 << 20)})
    assert status == 413


def test_masks_are_checked(client, clip):
    project = client.open(clip)
    client("POST", f"p/{project}/objects", {})
    for body in (b"", b"\x01" * 40, b"\xff" * 100):
        assert client.refused("PUT", f"p/{project}/mask/0?object=1", body)[0] == 400
    assert client.refused("PUT", f"p/{project}/mask/99999?object=1", b"")[0] == 404


@pytest.mark.parametrize(
    "name", ["../../x.mp4", "..%5c..%5cx.mp4", ".x.mp4", "x.sh", "a%0ab.mp4", "%F0%9F%90%95" * 60 + ".mp4"]
)
def test_uploaded_names_are_made_safe(client, app_folder, name):
    before = set(app_folder.rglob("*"))
    status, _, _ = client.raw("PUT", f"/api/uploads/{name}?offset=0&size=1", b"x")
    new = {path for path in set(app_folder.rglob("*")) - before if path.is_file()}
    assert all(path.parent == app_folder for path in new)
    if status == 200:
        (path,) = new
        assert len(os.fsencode(path.name)) <= 120
        assert path.name.isprintable()
        assert not path.name.startswith(".")
        path.unlink()
    else:
        assert status in (400, 404)
        assert not new


def test_an_upload_resumes_and_never_overwrites(client, app_folder):
    data = (app_folder / "clip.mp4").read_bytes()
    path, half = f"uploads/clip.mp4?size={len(data)}", len(data) // 2
    assert client("PUT", f"{path}&offset=0", data[:half]) == {"done": False, "name": None}
    status, _, content = client.raw("PUT", f"/api/{path}&offset=0", data[:half])
    assert (status, json.loads(content)["offset"]) == (409, half)
    done = client("PUT", f"{path}&offset={half}", data[half:])
    assert done == {"done": True, "name": "clip (2).mp4"}
    assert (app_folder / "clip (2).mp4").read_bytes() == data == (app_folder / "clip.mp4").read_bytes()
    (app_folder / "clip (2).mp4").unlink()


def test_an_upload_that_is_too_large_is_refused(client):
    status, error = client.refused("PUT", f"uploads/a.mp4?offset=0&size={9 << 30}", b"x")
    assert status == 400
    assert "is the most" in error


def test_every_answer_has_the_headers(client, app):
    for path in ("/", "/static/main.js", "/api/home", "/api/nothing"):
        _, headers, _ = client.raw("GET", path)
        assert {name: headers[name] for name in HEADERS} == HEADERS
    _, headers, _ = client.raw("GET", "/", headers={"Host": "evil.example"})
    assert headers["content-security-policy"] == HEADERS["content-security-policy"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_token_is_in_no_list_of_processes(app):
    for pid in [path.name for path in Path("/proc").iterdir() if path.name.isdecimal()]:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        assert app.token.encode() not in arguments


def test_projects_are_for_their_owner_alone(client, clip, app_folder):
    project = client.open(clip)
    assert (app_folder / "twospeed_projects" / project).stat().st_mode & 0o077 == 0
    assert (app_folder / ".twospeed").stat().st_mode & 0o077 == 0


def test_a_folder_is_open_once(app, app_folder):
    from tests.cli.commands import twospeed

    assert twospeed("app", app_folder, "--no-browser") == 2


def test_the_second_start_names_the_first(app, app_folder, capsys):
    from tests.cli.commands import fails

    assert f"127.0.0.1:{app.port}" in fails(capsys, "app", app_folder, "--no-browser")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_only_the_loopback_is_bound(app):
    lines = Path("/proc/net/tcp").read_text().splitlines()
    port = f"{app.port:04X}"
    bound = [line.split()[1] for line in lines[1:] if line.split()[3] == "0A" and line.split()[1].endswith(f":{port}")]
    assert bound == [f"0100007F:{port}"]


def test_no_page_writes_html():
    from twospeed.app.server import STATIC

    for file in STATIC.glob("*.js"):
        text = file.read_text()
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert forbidden not in text, file.name
