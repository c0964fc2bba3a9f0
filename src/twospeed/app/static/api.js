// Requests to the server. Errors carry the server's own sentence.

export const tab = Math.random().toString(36).slice(2, 10);

export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

export async function request(method, path, { json, body, query, signal } = {}) {
  const address = new URL(`/api/${path}`, location.origin);
  for (const [key, value] of Object.entries({ ...query, ...(method === "GET" ? {} : { tab }) })) {
    if (value !== undefined && value !== null) address.searchParams.set(key, value);
  }
  const headers = json === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(address, { method, headers, body: json === undefined ? body : JSON.stringify(json), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { error: "the server does not answer; is `twospeed app` still running?" });
  }
  if (response.ok) return response;
  let content = {};
  try {
    content = await response.json();
  } catch { /* no JSON */ }
  throw new Refused(response.status, content);
}

export const getJson = async (path, query) => (await request("GET", path, { query })).json();
export const post = async (path, json = {}) => {
  const response = await request("POST", path, { json });
  return response.status === 204 ? null : response.json();
};

/** Exchange the token in the address for the cookie, and take it out of the address. */
export async function login() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  await request("POST", "login", { json: { token } });
}
