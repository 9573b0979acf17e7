// The playground: asks the server that it came from, and shows what each model answers side by side.
(() => {
  const MOST_PICTURE = 8 * 1024 * 1024, LIKELIEST = 5, AT_ONCE = 3, MOST_MARKED = 0.6;
  const $ = (id) => document.getElementById(id);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const answerOf = new WeakMap();
  let models = [], token = "", picture = null, running = null, talks = new Map();

  const said = (text) => { $("said").textContent = text; };
  const problem = (text) => { $("problem").hidden = !text; $("problem").textContent = text ? plain(text) : ""; };
  const asked = async (path, body, signal) => {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => null);
    throw Object.assign(new Error(told?.error?.message ?? `The server answers with status ${answer.status}.`), { status: answer.status });
  };

  // What is asked: as a conversation, a text, columns or a picture, by the first model that is chosen.
  const chosen = () => all("#models input:checked").map((box) => models.find((model) => model.id === box.value));
  const kindOf = (model) => (model.reads === "images" ? "picture" : JSON.stringify(model.fields));
  const way = () => (chosen()[0]?.chats ? all("#ways input:checked")[0].value : "text");
  const talking = () => chosen().length > 0 && chosen()[0].chats && way() === "chat";
  const shape = () => {
    const first = chosen()[0];
    for (const box of all("#models input")) {
      const model = models.find((each) => each.id === box.value);
      box.disabled = !box.checked && first !== undefined && (kindOf(model) !== kindOf(first) || model.chats !== first.chats);
      box.closest("label").title = box.disabled ? "It reads another kind of input than the first one that is chosen." : "";
    }
    $("ways").hidden = !first?.chats;
    $("system").hidden = $("anew").hidden = !talking();
    const pictures = first?.reads === "images";
    $("picture").hidden = !pictures;
    $("settings").hidden = !(first?.writes || first?.chats);
    const fields = pictures || !first ? [] : talking() ? ["message"] : first.fields.length > 1 ? first.fields : ["input"];
    if (fields.join("\n") !== all("#fields textarea").map((area) => area.name).join("\n")) {
      const kept = all("#fields textarea")[0]?.value ?? "";
      $("fields").replaceChildren(...fields.map((name, index) => {
        const row = node("div"), label = node("label", plain(name[0].toUpperCase() + name.slice(1))), area = node("textarea");
        Object.assign(area, { id: `field-${index}`, name, rows: index ? 1 : 3, dir: "auto", value: index ? "" : kept });
        label.htmlFor = area.id;
        row.append(label, area);
        return row;
      }));
    }
    $("go").firstChild.textContent = talking() ? "Send " : "Ask ";
    $("go").querySelector("kbd").textContent = talking() ? "Enter" : "Ctrl Enter";
    $("go").disabled = !first || running !== null;
  };

  const show = () => {
    const base = models[0]?.base ?? "";
    $("base").textContent = plain(base);
    $("facts").replaceChildren(...[...new Set(models.map((model) => model.task))].map((task) => node("li", task)));
    const order = [...models].sort((a, b) => b.plain - a.plain); // the plain base first
    const start = new Set(order.filter((model) => kindOf(model) === kindOf(order[0])).slice(0, AT_ONCE));
    const boxes = order.map((model) => {
      const label = node("label"), box = node("input");
      Object.assign(box, { type: "checkbox", value: model.id, checked: start.has(model) });
      const name = node("bdi", plain(model.id));
      const what = model.plain ? "the plain base" : model.id.includes(model.method) ? "" : plain(model.method);
      label.append(box, name, ...(what ? [node("span", what, "dim")] : []));
      return label;
    });
    $("models").replaceChildren(node("legend", "Who answers"), ...boxes);
    $("most").value = models[0]?.most ?? 64;
    $("ask").hidden = false;
    shape();
  };

  const load = async () => {
    try {
      models = (await (await asked("/playground/models")).json()).data;
      $("locked").hidden = true;
      problem(models.length ? "" : "This server has no models.");
      show();
    } catch (error) {
      if (error.status === 401) {
        $("locked").hidden = false;
        $("base").textContent = "Locked";
        problem(token ? "The server does not take this token." : "");
        $("token").focus();
      } else if (error.status === 503) {
        problem("The server loads its models. This page asks again.");
        setTimeout(load, 2000);
      } else problem(error.message);
    }
  };

  // One model's place among the answers.
  const place = (model) => {
    const card = node("article", undefined, "card"), head = node("h3"), id = `answer-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    head.append(node("bdi", plain(model.id)));
    head.id = id;
    card.setAttribute("aria-labelledby", id);
    const text = node("div", undefined, "text"), meta = node("p", "waits", "meta");
    text.dir = "auto";
    card.append(head, text, meta);
    const answer = { model, card, head, text, meta, written: "", tokens: [], marks: [], done: false };
    answerOf.set(text, answer);
    return answer;
  };
  const repaint = (answer) => {
    if (answer.due) return;
    answer.due = requestAnimationFrame(() => painted(answer));
  };
  // At once, whatever is due: an answer that is said to be whole is shown as a whole.
  const painted = (answer) => {
    cancelAnimationFrame(answer.due);
    answer.due = 0;
    paint(answer.text, answer.written, answer.tokens, answer.marks);
  };
  // Differences from the first answer, once both are there.
  const compare = (answers) => {
    const [first, ...others] = answers;
    if (!first.done) return;
    for (const other of others) {
      if (!other.done) continue;
      if (other.line) markLine(other, first);
      else if (!other.failed && !first.failed && !other.compared) {
        other.compared = true;
        const marks = differing(other.written, first.written);
        // Where most words are others, marks on each say less than one note.
        if (marks.length > MOST_MARKED * words(other.written).length) other.head.append(node("span", `unlike ${plain(first.model.id)}`, "tag"));
        else { other.marks = marks; repaint(other); }
      }
    }
  };
  const markLine = (other, first) => {
    if (!first.line || other.compared) return;
    other.compared = true;
    if (other.line.prediction !== first.line.prediction) other.head.append(node("span", `not as ${plain(first.model.id)}`, "tag bad"));
    if (other.line.spans) other.text.replaceChildren(tagged(other.line.input, other.line.spans, first.line.spans));
  };

  const number = (id, otherwise) => ($(id).value === "" || Number.isNaN(+$(id).value) ? otherwise : +$(id).value);
  const stream = async (answer, inputs, signal) => {
    const { model } = answer, started = performance.now();
    const body = { model: model.id, stream: true, max_tokens: number("most", 64), temperature: number("temperature", 0), top_p: number("top-p", 1) };
    if ($("seed").value !== "") body.seed = Math.trunc(number("seed", 0));
    let path = "/v1/completions";
    if (inputs.messages) {
      path = "/v1/chat/completions";
      Object.assign(body, { messages: inputs.messages(model), logprobs: true, top_logprobs: LIKELIEST });
    } else Object.assign(body, { prompt: filled(model, inputs.values), logprobs: LIKELIEST });
    let ended = null;
    for await (const event of events(await asked(path, body, signal))) {
      const piece = pieceOf(event);
      answer.tokens.push(...placed(piece.text, piece.tokens, answer.written.length));
      answer.written += piece.text;
      ended = piece.end ?? ended;
      answer.meta.textContent = `${answer.tokens.length} tokens`;
      if (piece.text) repaint(answer);
    }
    painted(answer);
    const seconds = (performance.now() - started) / 1000, rate = answer.tokens.length / seconds;
    answer.meta.textContent = `${answer.tokens.length} tokens in ${seconds.toFixed(1)} s, ${rate.toFixed(1)} per second${ended === "length" ? "; cut off there" : ""}`;
    if (!answer.written) answer.text.replaceChildren(node("i", "nothing", "dim"));
  };
  // As deltatune fills a template: a column stands in braces, and a brace is written twice.
  const filled = (model, values) => (model.template ?? "{input}").replace(/\{\{|\}\}|\{([^{}]*)\}/g, (whole, name) =>
    name === undefined ? whole[0] : Object.hasOwn(values, name) ? values[name] : values.input ?? "");

  const predict = async (answer, inputs, signal) => {
    const { model } = answer, started = performance.now();
    const input = inputs.picture ?? (model.fields.length > 1 ? inputs.values : inputs.values.input);
    const [line] = (await (await asked("/predict", { model: model.id, input }, signal)).json()).predictions;
    if (line.error) throw new Error(line.error);
    answer.line = line;
    const parts = [];
    if (line.spans) parts.push(tagged(line.input, line.spans, null));
    else if (line.vector) parts.push(node("p", `${line.vector.length} numbers: ${line.vector.slice(0, 8).map((n) => n.toFixed(3)).join(", ")}, …`));
    else parts.push(node("p", plain(String(line.prediction)) || "nothing", "prediction"));
    if (line.probabilities) parts.push(...bars(line.probabilities, new Set([line.prediction, ...line.prediction.split(", ")])));
    answer.text.replaceChildren(...parts);
    const counted = line.spans ? `${line.spans.length} found, ` : "";
    answer.meta.textContent = `${counted}${((performance.now() - started) / 1000).toFixed(2)} s`;
  };

  const one = async (answer, inputs, signal, answers) => {
    answer.card.classList.add("writing");
    answer.card.setAttribute("aria-busy", "true");
    try {
      await (answer.model.writes || inputs.messages ? stream : predict)(answer, inputs, signal);
      said(`${answer.model.id} has answered.`);
    } catch (error) {
      answer.failed = true;
      const stopped = error.name === "AbortError";
      answer.meta.textContent = stopped ? "stopped" : "";
      if (!stopped) answer.text.after(node("p", plain(error.message), "bad tag"));
      said(`${answer.model.id}: ${stopped ? "stopped" : error.message}`);
      if (error.status === 401) { $("locked").hidden = false; problem("The server wants a token."); }
    }
    if (answer.tokens.length) {
      Object.assign(answer.text, { tabIndex: 0, role: "group", ariaLabel: `What ${plain(answer.model.id)} answers; the arrow keys go over its tokens` });
    }
    answer.card.classList.remove("writing");
    answer.card.removeAttribute("aria-busy");
    answer.done = true;
    compare(answers);
  };

  const ask = async () => {
    const who = chosen(), chat = talking();
    if (!who.length || running) return;
    const areas = all("#fields textarea"), values = Object.fromEntries(areas.map((area) => [area.name, area.value]));
    const pictures = who[0].reads === "images";
    const empty = pictures ? !picture : areas.every((area) => !area.value.trim());
    problem(empty ? (pictures ? "Choose a picture first." : "Write something first.") : "");
    if (empty) return areas[0]?.focus();
    running = new AbortController();
    $("go").disabled = true;
    $("stop").disabled = false;
    said("");
    const answers = who.map(place), side = node("div", undefined, "side"), turn = node("div", undefined, "turn");
    side.append(...answers.map((answer) => answer.card));
    const told = chat ? values.message : "";
    if (chat) {
      const user = node("p", plain(told), "user");
      user.dir = "auto";
      turn.append(user);
      areas[0].value = "";
    }
    turn.append(side);
    if (chat) $("answers").prepend(turn); else $("answers").replaceChildren(turn);
    const system = $("system-text").value.trim();
    const talk = (model) => talks.get(model.id) ?? [];
    const messages = (model) => [...(system ? [{ role: "system", content: system }] : []), ...talk(model), { role: "user", content: told }];
    const inputs = { values, picture: pictures ? picture : null, messages: chat ? messages : null };
    await Promise.all(answers.map((answer) => one(answer, inputs, running.signal, answers)));
    if (chat) {
      for (const answer of answers) {
        if (answer.failed) continue; // that turn does not count
        talks.set(answer.model.id, [...talk(answer.model), { role: "user", content: told }, { role: "assistant", content: answer.written }]);
      }
    }
    running = null;
    $("stop").disabled = true;
    shape();
    if (chat) areas[0].focus();
  };

  const take = (file) => {
    if (!file) return;
    if (file.type.startsWith("image/") && chosen()[0]?.reads === "images") {
      if (file.size > MOST_PICTURE) return problem(`The picture has ${(file.size / 2 ** 20).toFixed(1)} MiB; ${MOST_PICTURE / 2 ** 20} are the most.`);
      const reader = new FileReader();
      reader.onload = () => { picture = reader.result; $("shown").src = picture; $("shown").hidden = false; problem(""); };
      reader.readAsDataURL(file);
    } else if (!file.type.startsWith("image/") && file.size <= 2 ** 20) {
      file.text().then((text) => { const area = all("#fields textarea")[0]; if (area) { area.value = text; area.focus(); } });
    } else problem("This is neither a text of at most 1 MiB nor a picture for a model that reads pictures.");
  };

  // What a token would else have been: by the pointer, or by the arrow keys in an answer.
  const tip = document.body.appendChild(node("div", "", "tip"));
  tip.hidden = true;
  tip.setAttribute("role", "status");
  const point = (span) => {
    all(".text .at").forEach((each) => each.classList.remove("at"));
    const box = span?.closest?.(".text"), known = box && answerOf.get(box)?.tokens[span.dataset.token];
    tip.hidden = !known;
    if (!known) return;
    all(`[data-token="${span.dataset.token}"]`, box).forEach((each) => each.classList.add("at"));
    tip.textContent = tokenWords(known);
    const place = span.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(place.left, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${place.bottom + 6 + tip.offsetHeight > innerHeight ? Math.max(4, place.top - tip.offsetHeight - 6) : place.bottom + 6}px`;
  };
  $("answers").addEventListener("pointerover", (event) => point(event.target.closest("[data-token]")));
  $("answers").addEventListener("pointerleave", () => point(null));
  $("answers").addEventListener("focusout", () => point(null));
  $("answers").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !event.target.classList.contains("text")) return;
    const spans = all("[data-token]", event.target), now = spans.find((span) => span.classList.contains("at"))?.dataset.token;
    const next = spans[now === undefined ? 0 : step > 0 ? spans.findIndex((s) => +s.dataset.token > +now) : spans.findLastIndex((s) => +s.dataset.token < +now)];
    if (next) { event.preventDefault(); next.scrollIntoView({ block: "nearest" }); point(next); }
  });
  new MutationObserver(() => tip.isConnected && point(null)).observe($("answers"), { childList: true });

  addEventListener("keydown", (event) => {
    if (event.key === "Escape") { running?.abort(); point(null); }
    const sends = event.key === "Enter" && !event.isComposing && (event.ctrlKey || event.metaKey || (talking() && !event.shiftKey && event.target.name === "message"));
    if (sends && event.target.closest("#ask")) { event.preventDefault(); ask(); }
  });
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("ask").addEventListener("change", (event) => { if (event.target.closest("#models, #ways")) shape(); });
  $("stop").addEventListener("click", () => running?.abort());
  $("anew").addEventListener("click", () => { talks = new Map(); $("answers").replaceChildren(); all("#fields textarea")[0]?.focus(); });
  $("file").addEventListener("change", () => take($("file").files[0]));
  $("locked").addEventListener("submit", (event) => { event.preventDefault(); token = $("token").value.trim(); $("token").value = ""; load(); });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      $("ask").classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  }
  load();
})();
