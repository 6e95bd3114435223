/* The step that the reader has chosen, known to every component of the page before the server knows it. */

const PATIENCE = 5000; // milliseconds after which the server's word counts again, whatever it has seen

function chosenStep() {
  return (globalThis[Symbol.for("lag.step")] ??= { step: 0, last: 0, sent: 0, seen: 0, at: 0 });
}

/* Whether an answer of the server may still be about an earlier choice. */
function serverIsBehind() {
  const chosen = chosenStep();
  return chosen.seen < chosen.sent && performance.now() - chosen.at < PATIENCE;
}
