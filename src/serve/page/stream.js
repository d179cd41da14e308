// The server's API: answers as they come, and troubles in words.

/** Times that a request is sent again when the server has no place for it. */
const TRIES_MAX = 6;
/** Longest wait before another try, in seconds. */
const WAIT_MAX = 60;

/** What went wrong, in words for people. */
class Trouble extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const api = {
  key: "",

  loadKey() {
    try {
      this.key = sessionStorage.getItem("teff.key") ?? localStorage.getItem("teff.key") ?? "";
    } catch {
      this.key = "";
    }
  },

  setKey(key, isKept) {
    this.key = key;
    try {
      sessionStorage.setItem("teff.key", key);
      if (isKept) localStorage.setItem("teff.key", key);
      else localStorage.removeItem("teff.key");
    } catch {
      // Without storage the key lasts as long as the page.
    }
  },

  async fetch(path, options = {}) {
    const headers = { ...options.headers };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    try {
      return await fetch(path, { ...options, headers, credentials: "same-origin" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Trouble("The server does not answer. It may have been stopped, or the network is down.");
    }
  },

  async json(path) {
    const response = await this.fetch(path);
    if (!response.ok) throw await troubleOf(response);
    return response.json();
  },

  /** Sends a request until there is a place for it. `onWait` is told how long each wait is. */
  async patient(path, body, signal, onWait) {
    for (let n = 1; ; n++) {
      const headers = { "Content-Type": "application/json" };
      const response = await this.fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
      if (response.ok) return response;
      const trouble = await troubleOf(response);
      const isBusy = response.status === 429 || response.status === 503;
      if (!isBusy || n >= TRIES_MAX) throw trouble;
      for (let left = waitOf(response, n); left > 0; left--) {
        onWait(left, trouble.message);
        await sleep(1000, signal);
      }
      onWait(0, "");
    }
  },

  /** An answer, chunk by chunk. */
  async *chunks(body, signal, onWait) {
    const response = await this.patient("v1/chat/completions", body, signal, onWait);
    let isWhole = false;
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        isWhole = true;
        break;
      }
      let chunk;
      try {
        chunk = JSON.parse(data);
      } catch {
        throw new Trouble("The server sent something that is no JSON.");
      }
      if (chunk.error) throw new Trouble(sentence(chunk.error.message || "The server failed"), 0, chunk.error.code ?? "");
      yield chunk;
    }
    if (!isWhole) throw new Trouble("The connection ended before the answer did.");
  },
};

/** The trouble that a response tells of. */
async function troubleOf(response) {
  let text = "";
  let code = "";
  try {
    const { error } = await response.json();
    text = typeof error === "string" ? error : (error?.message ?? "");
    code = error?.code ?? "";
  } catch {
    // Proxies answer with pages: the status has to do.
  }
  const words = {
    401: "The server wants an API key.",
    403: "The server refuses requests under this name of its host.",
    404: "The server does not know this model or path.",
    413: "The request is longer than the server takes.",
    429: "The server is busy.",
    500: "The server failed. Its log has more.",
    502: "There is no server behind the proxy.",
    503: "The server cannot answer now.",
    504: "The server did not answer in time.",
  };
  const head = words[response.status] ?? `The server refused the request (${response.status}).`;
  const id = response.status >= 500 && response.headers.get("x-request-id");
  const tail = id ? ` Request ${id}.` : "";
  return new Trouble(`${head}${text ? ` ${sentence(text)}` : ""}${tail}`, response.status, code);
}

function sentence(text) {
  const trimmed = text.trim();
  const whole = trimmed[0].toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

/** Seconds to wait, by the header Retry-After or doubling. */
function waitOf(response, n) {
  const told = response.headers.get("retry-after") ?? "";
  const seconds = /^\d+$/.test(told) ? Number(told) : (Date.parse(told) - Date.now()) / 1000;
  const wait = Number.isFinite(seconds) ? seconds : 2 ** (n - 1);
  return Math.min(WAIT_MAX, Math.max(1, Math.ceil(wait)));
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new Trouble("The connection broke.");
      });
      text += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      text = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
