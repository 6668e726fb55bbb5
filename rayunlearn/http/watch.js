// What the page shows comes from /v1/events alone. Everything is set as text, so that nothing in it is markup.
"use strict";

const $ = (id) => document.getElementById(id);
let chosen = null;
let latest = [];
let stream = null;

const shown = (value) => (value === null || value === undefined ? "–" : String(value));
const moment = (value) => (value ? value.slice(0, 16).replace("T", " ") : "–");

function cell(row, text) {
  const made = document.createElement("td");
  made.textContent = text;
  row.append(made);
  return made;
}

function showOne() {
  const found = latest.find((one) => one.request_id === chosen);
  $("one").hidden = !found;
  if (!found) return;
  $("name").textContent = found.request_id;
  const facts = [];
  for (const [name, value] of Object.entries(found)) {
    const term = document.createElement("dt");
    const said = document.createElement("dd");
    term.textContent = name.replaceAll("_", " ");
    said.textContent = shown(Array.isArray(value) ? value.join(", ") : value);
    facts.push(term, said);
  }
  $("facts").replaceChildren(...facts);
}

function show(state) {
  latest = state.requests;
  const counts = Object.entries(state.counts).filter(([, number]) => number > 0);
  $("counts").textContent = counts.map(([status, number]) => `${number} ${status}`).join(", ") || "No request.";
  const rows = latest.map((one) => {
    const row = document.createElement("tr");
    const name = document.createElement("button");
    name.type = "button";
    name.textContent = one.request_id;
    name.addEventListener("click", () => { chosen = one.request_id; showOne(); });
    cell(row, "").append(name);
    cell(row, one.cancelling ? `${one.status}, to be cancelled` : one.status);
    cell(row, shown(one.lineage));
    cell(row, `${shown(one.kind)} ${one.target.slice(0, 20).join(", ")}${one.target.length > 20 ? " …" : ""}`);
    cell(row, moment(one.received_at));
    cell(row, moment(one.deadline));
    return row;
  });
  $("requests").replaceChildren(...rows);
  showOne();
}

async function watch(token) {
  stream?.abort();
  const own = new AbortController();
  stream = own;
  while (!own.signal.aborted) {
    try {
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      const answer = await fetch("/v1/events", { headers, signal: own.signal });
      if (!answer.ok) {
        $("said").textContent = (await answer.json()).detail;
        if (answer.status === 401 || answer.status === 403) return;
      } else {
        $("said").textContent = "Connected.";
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          const events = (rest + value).split("\n\n");
          rest = events.pop();
          for (const event of events) {
            const data = event.split("\n").find((line) => line.startsWith("data: "));
            if (data) show(JSON.parse(data.slice(6)));
          }
        }
      }
    } catch (error) {
      if (own.signal.aborted) return;
    }
    $("said").textContent = "The connection broke. Trying again.";
    await new Promise((go) => setTimeout(go, 3000));
  }
}

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  watch($("token").value);
});
watch("");
