// What the playground makes of answers. Whatever a model says becomes text, never markup.
"use strict";
const MOST_SHOWN = 200000; // characters of an answer on the page
const MOST_COMPARED = 1500; // words
const node = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
// Marks that reorder a line, and control characters, are shown as their codes.
const plain = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
  (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.0995 ? `${(100 * p).toFixed(1)} %` : `${(100 * p).toPrecision(2)} %`);

// The events of a stream, as they come: `data: {...}` between empty lines.
async function* events(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      yield JSON.parse(line.slice(6));
    }
  }
}

// Where the tokens of a piece stand in its text: a token that is decoded alone may lose the blank before it.
const placed = (text, tokens, start) => {
  let at = 0;
  return tokens.map(({ token, logprob, top }, index) => {
    const bare = token.trim(), found = bare ? text.indexOf(bare, at) : at, from = found < 0 ? at : found;
    at = index === tokens.length - 1 ? text.length : found < 0 ? at : found + bare.length;
    return { start: start + from, end: start + at, token, logprob, top };
  });
};

// The pieces of both ways in which OpenAI's API streams: { text, tokens: [{ token, logprob, top }], end }.
const pieceOf = (event) => {
  if (event.error) throw new Error(event.error.message);
  const choice = event.choices?.[0];
  if (!choice) return { text: "", tokens: [] };
  const text = choice.delta ? choice.delta.content ?? "" : choice.text ?? "";
  const logged = choice.logprobs;
  let tokens = [];
  if (logged?.content) {
    tokens = logged.content.map((t) => ({ token: t.token, logprob: t.logprob, top: t.top_logprobs.map((o) => [o.token, o.logprob]) }));
  } else if (logged?.tokens) {
    tokens = logged.tokens.map((token, i) => ({ token, logprob: logged.token_logprobs[i], top: Object.entries(logged.top_logprobs?.[i] ?? {}) }));
  }
  return { text, tokens, end: choice.finish_reason };
};

const words = (text) => [...text.matchAll(/\S+/g)].map((m) => ({ word: m[0], start: m.index, end: m.index + m[0].length }));
// The words of `text` that a longest common subsequence with `other` leaves out; none where either is too long.
const differing = (text, other) => {
  const a = words(text), b = words(other).map((w) => w.word);
  if (a.length > MOST_COMPARED || b.length > MOST_COMPARED) return [];
  const width = b.length + 1, long = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      long[i * width + j] = a[i].word === b[j] ? 1 + long[(i + 1) * width + j + 1] : Math.max(long[(i + 1) * width + j], long[i * width + j + 1]);
  const left = [];
  for (let i = 0, j = 0; i < a.length;) {
    if (j < b.length && a[i].word === b[j]) { i++; j++; }
    else if (j < b.length && long[i * width + j + 1] >= long[(i + 1) * width + j]) j++;
    else left.push(a[i++]);
  }
  return left;
};

// A text in spans, cut where a token or a word that differs begins or ends.
const paint = (box, text, tokens, marks) => {
  const shown = text.slice(0, MOST_SHOWN), cuts = new Set([0, shown.length]);
  for (const range of [...tokens, ...marks]) for (const at of [range.start, range.end]) if (at < shown.length) cuts.add(at);
  const places = [...cuts].sort((x, y) => x - y), parts = [];
  let t = 0, m = 0;
  for (let i = 0; i + 1 < places.length; i++) {
    const [from, to] = [places[i], places[i + 1]];
    while (t < tokens.length && tokens[t].end <= from) t++;
    while (m < marks.length && marks[m].end <= from) m++;
    const span = node("span", plain(shown.slice(from, to)));
    const token = t < tokens.length && tokens[t].start <= from ? tokens[t] : null;
    if (token) {
      span.dataset.token = t;
      const p = Math.exp(token.logprob);
      if (p < 0.9) span.classList.add(p < 0.3 ? "p3" : p < 0.6 ? "p2" : "p1");
    }
    if (m < marks.length && marks[m].start <= from) span.classList.add("new");
    parts.push(span);
  }
  if (text.length > MOST_SHOWN) parts.push(node("em", ` (${text.length - MOST_SHOWN} more characters)`, "dim"));
  box.replaceChildren(...parts);
};

const tokenWords = ({ token, logprob, top }) => {
  const line = (text, p) => `${percent(Math.exp(p)).padStart(7)}  ${plain(JSON.stringify(text)).slice(0, 40)}`;
  const others = top.filter(([text]) => text !== token).slice(0, 5);
  return [line(token, logprob), ...others.map(([text, p]) => line(text, p))].join("\n");
};

const bars = (probabilities, given) => {
  const list = node("dl", undefined, "bars");
  const all = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
  for (const [label, p] of all.slice(0, 12)) {
    const rail = node("dd", undefined, "rail"), fill = node("div", undefined, "fill");
    fill.style.width = `${Math.max(0, Math.min(100, 100 * p))}%`;
    rail.append(fill);
    list.append(node("dt", plain(label).slice(0, 200), given.has(label) ? "given" : ""), rail, node("dd", percent(p), "share"));
  }
  return all.length > 12 ? [list, node("p", `${all.length - 12} more`, "meta")] : [list];
};

// Entities in their text. Places are counted in characters as Python counts them: letters, not halves of pairs.
const tagged = (input, spans, others) => {
  const letters = [...input], box = node("p", undefined, "text"), known = new Set(others?.map((s) => `${s.start} ${s.end} ${s.label}`));
  let at = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    if (span.start < at) continue;
    box.append(plain(letters.slice(at, span.start).join("")));
    const mark = node("mark", plain(letters.slice(span.start, span.end).join("")));
    if (others && !known.has(`${span.start} ${span.end} ${span.label}`)) mark.className = "new";
    mark.title = percent(span.score);
    mark.append(node("small", plain(span.label)));
    box.append(mark);
    at = span.end;
  }
  box.append(plain(letters.slice(at).join("")));
  return box;
};
