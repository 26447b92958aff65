// Requests to the server of this page. Paths are relative, because a proxy may add a prefix.

const server = { name: "", key: "" }; // the key is stored only here

class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** GETs `path`, or POSTs `body` to it; throws ServerError with the message of the server. */
const request = async (path, body) => {
  const headers = {};
  if (server.key) headers.authorization = `Bearer ${server.key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const started = performance.now();
  let response, text;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body, cache: "no-store" });
    text = await response.text();
  } catch {
    throw new ServerError(0, "The server does not respond. It may be restarting: retry in a moment.");
  }
  const seconds = (performance.now() - started) / 1000;
  if (response.ok) return { text, seconds, headers: response.headers };
  let message = `the server returned ${response.status}`;
  try {
    message = JSON.parse(text).error ?? message;
  } catch {} // not a response of the server, but of a proxy
  if (response.status === 401) requireKey(message);
  throw new ServerError(response.status, message);
};

const requestJson = async (path, body) => JSON.parse((await request(path, body)).text);
const modelPath = (part) => `v2/models/${encodeURIComponent(server.name)}${part && `/${part}`}`;

const requireKey = (reason) => {
  setText($("key-error"), server.key ? reason : "");
  $("key").hidden = false;
  $("key-text").focus();
};
