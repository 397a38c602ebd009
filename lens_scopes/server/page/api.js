// Talks to the server: plain requests, and questions whose progress is streamed as server-sent events.

/** What the server said was wrong; the message is the sentence of its problem details. */
export class ProblemError extends Error {}

/** A JSON answer. */
export async function ask(address, options = {}) {
  const response = await reached(fetch(address, options));
  const body = await response.json();
  if (!response.ok) throw new ProblemError(body.detail);
  return body;
}

/** The answer to a question; `tell` hears how far the work is. Aborting the signal cancels the work. */
export async function question(kind, body, tell, signal) {
  const response = await reached(
    fetch(`api/${kind}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify(body),
      signal,
    }),
  );
  if (!response.ok) throw new ProblemError((await response.json()).detail);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reached(reader.read());
    if (done) throw new ProblemError("the server stopped before it answered; try again.");
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const [, event, data] = rest.slice(0, end).match(/^event: (\w+)\ndata: (.*)$/s);
      rest = rest.slice(end + 2);
      const said = JSON.parse(data);
      if (event === "result") return said;
      if (event === "problem") throw new ProblemError(said.detail);
      tell(said);
    }
  }
}

async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError("the server cannot be reached; is it still running?");
  }
}
