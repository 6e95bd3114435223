/* Streamlit sends every message with the page that it shows. Between a click on another page's link and the first word of
   that page from the server, this is still the page before: the server would go back to it, and the click would be lost.
   So what was said before the click is sent before Streamlit hears of it, and what is said after it waits for the page. */

const TURN = 10000; // milliseconds for which a page is waited for
const BACK = 1000; // the same after Back, whose address is there before the page

function turn() {
  return (globalThis[Symbol.for("lag.turn")] ??= { from: null, until: 0, unsent: 0 });
}

function turning() {
  return location.pathname === turn().from && performance.now() < turn().until;
}

/* Calls `send` as soon as no page is on its way; not at all if `node` has gone by then. */
function tell(node, send) {
  if (turning()) return setTimeout(() => node.isConnected && tell(node, send), 50);
  send();
  turn().unsent += 1;
  setTimeout(() => (turn().unsent -= 1)); // Streamlit sends after the present task, so before this
}

function hold(milliseconds) {
  Object.assign(turn(), { from: location.pathname, until: performance.now() + milliseconds });
}

function watchTurns() {
  if (turn().watched) return;
  turn().watched = true;
  document.addEventListener("click", (event) => {
    const link = event.composedPath().find((node) => node.matches?.("a[href]"));
    if (!link || !leavesFor(link, event)) return;
    document.dispatchEvent(new CustomEvent("lag:leave")); // whoever still has something to say does so
    if (!turn().unsent) return hold(TURN);
    event.preventDefault();
    event.stopImmediatePropagation();
    setTimeout(() => link.click());
  }, true);
  addEventListener("popstate", () => hold(BACK), true);
}

function leavesFor(link, event) {
  if (link.target === "_blank" || link.hasAttribute("download") || event.ctrlKey || event.metaKey || event.shiftKey) return false;
  return link.origin === location.origin && link.pathname !== location.pathname;
}
