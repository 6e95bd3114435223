/* Back leads from page to page, and to the run, class or picture before; a step or a setting is no entry of its own. */

const OWN_ENTRY = ["run", "run2", "class", "image"];

function deservesEntry(from, to) {
  if (from.pathname !== to.pathname) return true;
  if (!from.search) return false; // the page has just been opened and now says what it shows
  return OWN_ENTRY.some((name) => from.searchParams.get(name) !== to.searchParams.get(name));
}

function keepHistoryShort() {
  const mark = Symbol.for("lag.history");
  if (globalThis[mark]) return;
  globalThis[mark] = true;
  const push = history.pushState.bind(history), replace = history.replaceState.bind(history);
  history.pushState = (state, unused, url) => {
    const from = new URL(location.href), to = new URL(url ?? location.href, location.href);
    (deservesEntry(from, to) ? push : replace)(state, unused, url);
  };
}
