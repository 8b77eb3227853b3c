// The only scripts that the page starts by their URL. The Content-Security-Policy refuses any other URL, and
// this policy makes no HTML.

const URLS = { offline: "offline-worker.js", pdf: "vendor/pdf.worker.min.mjs" };

const policy = globalThis.trustedTypes?.createPolicy("phi4d", {
  createScriptURL: (name) => {
    if (!Object.hasOwn(URLS, name)) throw new TypeError(`${name} is not a script of this page`);
    return new URL(URLS[name], import.meta.url).href;
  },
});

/** The URL of the script `name`, as a browser with Trusted Types wants it. */
export const scriptUrl = (name) => policy?.createScriptURL(name) ?? new URL(URLS[name], import.meta.url).href;
