// The server that the page came from. Addresses are relative: there may be a proxy with a prefix before it.

const server = { name: "", key: "" }; // the key is here and nowhere else

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** GETs `path`, or POSTs `body` there; throws Refused with the server's own sentence. */
const ask = async (path, body) => {
  const headers = {};
  if (server.key) headers.authorization = `Bearer ${server.key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const began = performance.now();
  let response, text;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body, cache: "no-store" });
    text = await response.text();
  } catch {
    throw new Refused(0, "The server does not answer. It may be restarting: try again in a moment.");
  }
  const seconds = (performance.now() - began) / 1000;
  if (response.ok) return { text, seconds, headers: response.headers };
  let message = `the server answered ${response.status}`;
  try {
    message = JSON.parse(text).error ?? message;
  } catch {} // not the server's own words: something before it answered
  if (response.status === 401) askForKey(message);
  throw new Refused(response.status, message);
};

const askJson = async (path, body) => JSON.parse((await ask(path, body)).text);
const ofModel = (what) => `v2/models/${encodeURIComponent(server.name)}${what && `/${what}`}`;

const askForKey = (why) => {
  say($("key-why"), server.key ? why : "");
  $("key").hidden = false;
  $("key-text").focus();
};
