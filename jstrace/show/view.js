"use strict";
// One page, no requests: data is JSON in the page, and texts of tokens go through textContent or fillText alone.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const MOST = 4000; // attention curves that are drawn at once; the page says where there are more
const FEWEST = 500; // and while the size moves on a machine that draws these too slowly
let budget = MOST; // of the next picture that is to be followed by others
const state = { k: 0, head: null, node: null, token: null, playing: 0 };
let tones = {}; // read once for each picture: asking the style for every edge costs more than drawing it
function readTones() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "soft", "paper", "residual", "attn", "mlp", "mark", "faint", "line"]) tones[name] = style.getPropertyValue(`--${name}`).trim();
}
const colour = (name) => tones[name];

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const shown = (text) => text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
  (letter) => letter === "\n" ? "⏎" : letter === "\t" ? "⇥" : "·");
const quoted = (text) => { const span = document.createElement("span"); span.className = "token"; span.textContent = shown(text); return span; };
const element = (tag, ...content) => { const made = document.createElement(tag); made.append(...content); return made; };
const rounded = (score) => { const two = score.toPrecision(2); return Math.abs(score) >= 1e5 ? two.replace("e+", "e") : String(+two); };
const percent = (size) => `${+(100 * size).toPrecision(3)}%`;

/** Places of strata below a limit, in the order of these, and for each of them where it starts. */
function inOrder(strata, limit) {
  const starts = new Uint32Array(257);
  for (let at = 0; at < strata.length; at++) starts[strata[at] + 1]++;
  for (let k = 0; k < 256; k++) starts[k + 1] += starts[k];
  const next = starts.slice(), order = new Uint32Array(starts[limit]);
  for (let at = 0; at < strata.length; at++) if (strata[at] < limit) order[next[strata[at]]++] = at;
  return [order, starts];
}

/** One trace with its evaluations: the graph, its curve, its heads. */
class Panel {
  constructor(trace, strata, codes) {
    Object.assign(this, trace);
    this.strata = strata; this.codes = codes;
    const n = this.tokens.length, rows = this.layers * n, pairs = n * (n + 1) / 2;
    this.n = n; this.pairs = pairs;
    this.share(strata);
    this.counted = new Uint16Array(this.layers * pairs);
    this.headCounts = new Uint32Array(this.layers * this.heads);
    this.arrange();
    this.build();
  }

  /** The arrays of strata: residual past attention, attention, residual past the MLP, MLP. */
  share(strata) {
    const rows = this.layers * this.n, edges = this.layers * this.heads * this.pairs;
    let at = 0;
    const take = (count) => strata.subarray(at, at += count);
    this.residualAttn = take(rows); this.attn = take(edges); this.residualMlp = take(rows); this.mlp = take(rows);
  }

  /** The code of every edge's score; 255 where the page has none. Made when it is first asked for. */
  get coded() {
    if (!this.code) {
      this.code = new Uint8Array(this.strata.length).fill(255);
      let next = 0;
      for (let at = 0; at < this.strata.length; at++) if (this.strata[at] <= this.scores.last) this.code[at] = this.codes[next++];
    }
    return this.code;
  }

  /** The score of an edge by its place among all, or null. */
  scoreOf(at) {
    return this.scores ? this.scores.values[this.coded[at]] ?? null : null;
  }

  /** Leave out edges of lower scores, and those whose scores the page does not have; null for none of that. */
  keepScores(least) {
    if (!this.scores) return;
    const kept = this.scores.values.map((value) => value >= least);
    this.share(least === null ? this.strata : this.strata.map((stratum, at) => kept[this.coded[at]] ? stratum : 255));
    this.arrange();
  }

  /** Attention edges in the order of their strata, so that a step of the slider touches those that come or go alone. */
  arrange() {
    const { layers, heads, pairs } = this, strata = this.attn;
    [this.order, this.starts] = inOrder(strata, this.sizes.length);
    this.least = new Uint8Array(layers * pairs).fill(255); // over the heads, of every pair of tokens
    for (let layer = 0, at = 0; layer < layers; layer++) for (let head = 0; head < heads; head++) {
      for (let pair = layer * pairs, end = pair + pairs; pair < end; pair++, at++) if (strata[at] < this.least[pair]) this.least[pair] = strata[at];
    }
    [this.byLeast, this.leastStarts] = inOrder(this.least, this.sizes.length);
    this.counted.fill(0); this.headCounts.fill(0); this.countedTo = -1; // the stratum up to which edges are counted
  }

  /** Bring the counts of pairs and of heads to the size that the slider shows. */
  count() {
    const { layers, heads, pairs } = this, one = state.k > this.countedTo ? 1 : -1;
    const [low, high] = [state.k, this.countedTo].sort((a, b) => a - b);
    for (let place = this.starts[low + 1], end = this.starts[high + 1]; place < end; place++) {
      const at = this.order[place], row = Math.floor(at / pairs), layer = Math.floor(row / heads);
      this.headCounts[row] += one;
      this.counted[at - (row - layer) * pairs] += one;
    }
    this.countedTo = state.k;
  }

  build() {
    const make = (tag, name, parent) => { const made = document.createElement(tag); if (name) made.className = name; parent.append(made); return made; };
    const panel = make("section", "panel", $("panels"));
    panel.setAttribute("aria-label", this.name);
    if (data.traces.length > 1) make("h2", "", panel).textContent = this.name;
    this.canvas = make("canvas", "graph", panel);
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.words = make("p", "words", panel);
    this.words.setAttribute("aria-live", "polite");
    const key = make("p", "key", panel);
    for (const [name, words] of [["residual", "residual"], ["attn", "attention, stronger for more heads"], ["mlp", "MLP"]]) {
      const mark = make("span", "", key); mark.style.borderTopColor = `var(--${name})`; key.append(words);
    }
    if (this.counterfactual) make("p", "", panel).textContent = this.pairWords();
    this.note = make("p", "note", panel);
    if (this.scores) {
      const all = this.scores.last === this.sizes.length - 1 ? "" : `, of the edges that enter up to ${percent(this.sizes[this.scores.last])}`;
      make("p", "", panel).textContent = `${this.scores.words}; within ${percent(this.scores.error)}${all}.`;
    }
    const below = make("div", "below", panel);
    this.curve = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.curve.setAttribute("class", "curve"); this.curve.setAttribute("viewBox", `0 0 372 ${192 + 14 * this.evaluations.length}`);
    this.curve.setAttribute("role", "img"); this.curve.setAttribute("aria-label", "TV distance against size");
    if (this.evaluations.length) below.append(this.curve);
    const maps = make("div", "maps", below), map = make("div", "", maps);
    make("p", "", map).textContent = `Edges of each head at this size: ${this.layers} layers up, ${this.heads} heads across; click one`;
    this.map = make("canvas", "heads", map);
    this.map.setAttribute("role", "img");
    this.map.width = this.heads; this.map.height = this.layers;
    const cell = Math.max(3, Math.min(12, Math.floor(220 / Math.max(this.heads, this.layers))));
    this.map.style.width = `${cell * this.heads}px`; this.map.style.height = `${cell * this.layers}px`;
    if (this.effects) this.buildEffects(make, make("div", "", maps), cell);
    this.canvas.addEventListener("mousemove", (event) => this.hover(event));
    this.canvas.addEventListener("mouseleave", () => this.say(null));
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.map.addEventListener("click", (event) => this.choose(...this.cellAt(this.map, event)));
  }

  /** The layer and the column of a map that the mouse is on. */
  cellAt(map, event) {
    const box = map.getBoundingClientRect(), within = (at, count) => Math.max(0, Math.min(count - 1, Math.floor(at * count)));
    return [this.layers - 1 - within((event.clientY - box.top) / box.height, this.layers), within((event.clientX - box.left) / box.width, map.width)];
  }

  /** Show a head alone, or all of them again. */
  choose(layer, head) {
    const same = state.head && state.head[0] === layer && state.head[1] === head;
    state.head = same ? null : [layer, head]; changed();
  }

  /** What ablating each head, and each layer's MLP, does to the metric: a map that no size changes. */
  buildEffects(make, parent, cell) {
    const { metric, values } = this.effects, all = values.flat(), most = Math.max(...all.map(Math.abs)) || 1;
    const name = (layer, column) => `layer ${layer}, ${column === this.heads ? "MLP" : `head ${column}`}`;
    const told = (at) => { const [layer, column] = [Math.floor(at / (this.heads + 1)), at % (this.heads + 1)]; return `${name(layer, column)}: ${all[at] > 0 ? "+" : ""}${all[at] === null ? "not finite" : rounded(all[at])}`; };
    const order = all.map((_, at) => at).sort((a, b) => Math.abs(all[b]) - Math.abs(all[a]));
    make("p", "", parent).textContent = `Effect of each head, and of the MLP in the last column, on ${shown(metric)}: orange helps, blue hurts`;
    const map = this.effectMap = make("canvas", "heads", parent);
    map.setAttribute("role", "img");
    map.setAttribute("aria-label", `Effects by head and MLP; the largest are ${order.slice(0, 3).map(told).join("; ")}`);
    map.width = this.heads + 1; map.height = this.layers;
    map.style.width = `${cell * (this.heads + 1)}px`; map.style.height = `${cell * this.layers}px`;
    map.addEventListener("click", (event) => { const [layer, column] = this.cellAt(map, event); if (column < this.heads) this.choose(layer, column); });
    map.addEventListener("mousemove", (event) => { const [layer, column] = this.cellAt(map, event); this.say(`effect of ${told(layer * (this.heads + 1) + column)}`); });
    map.addEventListener("mouseleave", () => this.say(null));
    make("p", "", parent).textContent = `Largest: ${order.slice(0, 3).map(told).join("; ")}.`;
    this.mostEffect = most;
  }

  drawEffects() {
    if (!this.effects) return;
    const pen = this.effectMap.getContext("2d");
    this.effects.values.forEach((row, layer) => row.forEach((value, column) => {
      const own = state.head && state.head[0] === layer && state.head[1] === column, y = this.layers - 1 - layer;
      pen.globalAlpha = 1; pen.fillStyle = own ? colour("mark") : colour("faint"); pen.fillRect(column, y, 1, 1);
      if (own) return;
      pen.globalAlpha = Math.sqrt(Math.abs(value) / this.mostEffect); pen.fillStyle = colour(value > 0 ? "mlp" : "attn");
      pen.fillRect(column, y, 1, 1);
    }));
  }

  /** What colours say of a pair, and why there is grey. */
  pairWords() {
    const told = "Bold tokens differ between the text and the counterfactual, which stands below it or, where there is no room, behind a slash.";
    return this.first ? `${told} Grey edges leave tokens before the first difference: both prompts have the same states there, so under counterfactual ablation they make no difference.` : told;
  }

  /** Node levels: 2l enters layer l, 2l+1 is past its attention, 2L is the output's; parallel blocks have no middle. */
  middle(layer) { return this.parallel ? 2 * layer + 2 : 2 * layer + 1; }
  pair(i, j) { return i * (i + 1) / 2 + j; }

  /** Pairs of tokens that have attention: of all heads by the size at which they enter, or of the one that is chosen. */
  attended() {
    const { layers, heads, pairs } = this, low = +$("from-layer").value, high = +$("to-layer").value;
    if (!$("show-attn").checked) return [];
    if (state.head) {
      const [layer, head] = state.head, start = (layer * heads + head) * pairs, found = [];
      if (layer >= low && layer <= high) for (let pair = 0; pair < pairs; pair++) if (this.attn[start + pair] <= state.k) found.push(layer * pairs + pair);
      return found.sort((a, b) => this.attn[start + a - layer * pairs] - this.attn[start + b - layer * pairs]);
    }
    const found = this.byLeast.subarray(0, this.leastStarts[state.k + 1]);
    return low === 0 && high === layers - 1 ? found : found.filter((pair) => pair >= low * pairs && pair < (high + 1) * pairs);
  }

  /** The first so many of them, those of most heads where as many enter at the same size. */
  strongest(found, most) {
    if (found.length <= most || state.head) return found.slice(0, most);
    const last = this.least[found[most]];
    let start = most, end = most;
    while (start > 0 && this.least[found[start - 1]] === last) start--;
    while (end < found.length && this.least[found[end]] === last) end++;
    const tied = found.slice(start, end), of = new Uint32Array(this.heads + 1);
    for (const place of tied) of[this.counted[place]]++;
    let least = this.heads, more = 0; // heads of the last ones that are taken, and how many have more
    while (more + of[least] < most - start) more += of[least--];
    let left = most - start - more; // of those with as many as the last
    return [...found.slice(0, start), ...tied.filter((place) => this.counted[place] > least || (this.counted[place] === least && left-- > 0))];
  }

  /** A pair of tokens as an edge: kind, layer, source token and level, target token and level, heads, first stratum. */
  curveOf(place) {
    const layer = Math.floor(place / this.pairs), pair = place - layer * this.pairs;
    const i = Math.floor((Math.sqrt(8 * pair + 1) - 1) / 2), j = pair - i * (i + 1) / 2;
    const one = state.head ? this.attn[(layer * this.heads + state.head[1]) * this.pairs + pair] : this.least[place];
    return ["attn", layer, j, 2 * layer, i, this.middle(layer), state.head ? 1 : this.counted[place], one];
  }

  /** Residual and MLP edges. */
  columns() {
    const { n } = this, k = state.k, found = [], low = +$("from-layer").value, high = +$("to-layer").value;
    const residual = $("show-residual").checked, mlp = $("show-mlp").checked;
    for (let layer = low; layer <= high; layer++) for (let i = 0; i < n; i++) {
      const row = layer * n + i, mid = this.middle(layer);
      if (residual && this.residualAttn[row] <= k) found.push(["residual", layer, i, 2 * layer, i, mid, 1, this.residualAttn[row]]);
      if (residual && !this.parallel && this.residualMlp[row] <= k) found.push(["residual", layer, i, mid, i, 2 * layer + 2, 1, this.residualMlp[row]]);
      if (mlp && this.mlp[row] <= k) found.push(["mlp", layer, i, this.parallel ? 2 * layer : mid, i, 2 * layer + 2, 1, this.mlp[row]]);
    }
    return found;
  }

  /** Every edge that is there, drawn or not; made when it is asked for. */
  get all() {
    this.every ??= [...this.column, ...Array.from(this.attention, (place) => this.curveOf(place))];
    return this.every;
  }

  update(most) {
    this.count();
    this.every = null;
    this.column = this.columns(); this.attention = this.attended();
    const kept = this.strongest(this.attention, most);
    this.lit = this.paths();
    this.drawn = this.column.concat(this.lit ? this.withLit(kept) : Array.from(kept, (place) => this.curveOf(place)));
    const drawn = this.drawn.length - this.column.length;
    this.note.textContent = drawn < this.attention.length ? `The ${drawn.toLocaleString("en")} strongest of ${this.attention.length.toLocaleString("en")} token pairs with attention are drawn.` : "";
    this.draw(); this.drawCurve(); this.drawHeads(); this.drawEffects();
    this.canvas.setAttribute("aria-label", `Graph of the trace: ${this.counts[state.k].toLocaleString("en")} of ${this.counts[this.counts.length - 1].toLocaleString("en")} edges, ${this.n} tokens, ${this.layers} layers`);
  }

  /** The same edges as those of paths: all that are lit, however weak, and what else is drawn. */
  withLit(kept) {
    const edges = this.all.slice(this.column.length), chosen = new Set(kept);
    return edges.filter((edge, index) => this.lit.has(edge) || chosen.has(this.attention[index]));
  }

  /** Edges on paths from the selected node to the output, those that it reads from, and for a token all it reaches. */
  paths() {
    if (!state.node && state.token === null) return null;
    const id = (token, level) => token * (2 * this.layers + 1) + level;
    const start = state.node ? id(...state.node) : id(state.token, 0);
    const reached = new Set([start]), lit = new Set();
    const order = this.all.map((_, index) => index).sort((a, b) => this.all[a][3] - this.all[b][3]);
    for (const index of order) {
      const [, , j, from, i, to] = this.all[index];
      if (reached.has(id(j, from))) { reached.add(id(i, to)); lit.add(this.all[index]); }
    }
    if (!state.node) return lit;
    const useful = new Set([id(this.n - 1, 2 * this.layers)]), paths = new Set();
    for (const index of order.slice().reverse()) {
      const edge = this.all[index];
      if (lit.has(edge) && useful.has(id(edge[4], edge[5]))) { useful.add(id(edge[2], edge[3])); paths.add(edge); }
    }
    for (const edge of this.all) if (id(edge[4], edge[5]) === start) paths.add(edge);
    return paths;
  }

  layout() {
    const width = this.canvas.clientWidth || 600;
    const height = Math.max(260, Math.min(720, 90 + 16 * this.layers));
    const left = 30, top = 14, dx = (width - left - 22) / Math.max(1, this.n - 1), whole = Boolean(this.counterfactual) && dx >= 36;
    const longest = Math.max(...this.tokens.map((_, token) => this.wordsAt(token, whole)).flat().map((word) => word.length));
    const bottom = this.n > 90 ? 20 : 24 + 5.2 * longest + (whole ? 14 : 0), dy = (height - top - bottom) / (2 * this.layers);
    return { width, height, dx, whole, x: (token) => left + dx * (this.n > 1 ? token : 0), y: (level) => height - bottom - dy * level };
  }

  draw(pen) {
    const at = this.layout(), target = pen || new CanvasPen(this.canvas, at.width, at.height);
    target.begin(at.width, at.height);
    const ink = colour("soft");
    const step = Math.ceil(this.layers / 12);
    for (let layer = 0; layer <= this.layers; layer += step) target.text(String(layer), 4, at.y(2 * layer) + 4, ink, 10, 0);
    if (this.n <= 90) this.drawTokens(target, at);
    for (let token = 0; token < this.n; token++) target.line(at.x(token), at.y(0), at.x(token), at.y(2 * this.layers), colour("faint"), 1, 1);
    target.flush(); // below all edges
    const thin = Math.min(1, at.dx / 4); // many tokens share the width
    for (const edge of this.drawn) {
      const [kind, , j, from, i, to, count] = edge, lit = this.lit && this.lit.has(edge);
      const alpha = this.lit ? (lit ? 1 : 0.06) : kind === "attn" ? Math.min(0.9, 0.32 + 0.58 * count / this.heads) : 0.9;
      const tone = lit ? colour("mark") : j < (this.first ?? 0) ? colour("line") : colour(kind);
      if (kind === "mlp") {
        target.curve(at.x(i), at.y(from), at.x(i) + Math.min(7, at.dx / 2.5), (at.y(from) + at.y(to)) / 2, at.x(i), at.y(to), tone, 1.8 * thin, alpha);
      } else if (kind === "residual" || i === j) {
        target.line(at.x(j), at.y(from), at.x(i), at.y(to), tone, (kind === "attn" ? 1 : 2) * thin, alpha);
      } else {
        target.curve(at.x(j), at.y(from), at.x(i), at.y(from), at.x(i), at.y(to), tone, lit ? 1.6 : 1, alpha);
      }
    }
    target.flush();
    const cursor = this.cursor && document.activeElement === this.canvas ? this.cursor : null;
    for (const [node, size] of [[state.node, 5], [cursor, 4]]) if (node) target.dot(at.x(node[0]), at.y(node[1]), size, colour("mark"));
    target.dot(at.x(this.n - 1), at.y(2 * this.layers), 4, colour("ink"));
    return target;
  }

  /** Texts at a token's column: its own and, of a pair with room for two lines a token, the counterfactual's. */
  wordsAt(token, whole) {
    const [own, other] = [this.tokens, this.counterfactual ?? []].map((words) => shown(words[token] ?? "").slice(0, 14));
    return whole ? [own, other] : [own + (this.differs?.[token] ? ` /${other}` : "")];
  }

  /** Tokens below their columns; of a pair the counterfactual's beside them, grey where both are the same so far. */
  drawTokens(target, at) {
    const paired = Boolean(this.counterfactual), whole = at.whole;
    const every = Math.ceil(11 / Math.max(at.dx, 0.5));
    for (let token = 0; token < this.n; token++) {
      const differs = paired && this.differs[token];
      if (token % every && !differs) continue;
      const grey = token < (this.first ?? 0), tone = colour(state.token === token ? "mark" : paired && !grey ? "ink" : "soft");
      const x = at.x(token) + 3, y = at.y(0) + 12, [own, other] = this.wordsAt(token, whole);
      target.text(own, x, y, differs ? colour("attn") : tone, 11, 55, differs);
      if (whole) target.text(other, x - 13, y + 9, differs ? colour("mlp") : colour("soft"), 11, 55, differs);
    }
  }

  drawCurve() {
    const svg = this.curve, x = (size) => 34 + 300 * (Math.log10(size) + 5) / 5, y = (tv) => 158 - 145 * tv;
    svg.replaceChildren();
    const make = (tag, options, words) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(options)) made.setAttribute(name, value);
      if (words !== undefined) made.textContent = words;
      svg.append(made); return made;
    };
    for (const tv of [0, 0.5, 1]) { make("line", { x1: 34, x2: 340, y1: y(tv), y2: y(tv), stroke: colour("faint") }); make("text", { x: 30, y: y(tv) + 4, "text-anchor": "end" }, percent(tv)); }
    for (const size of [1e-4, 1e-3, 0.01, 0.1, 1]) make("text", { x: x(size) - 10, y: 172 }, percent(size));
    const from = this.evaluations.some((one) => one.targeted) ? "what it is measured against" : "the model's own prediction";
    make("text", { x: 34, y: 187 }, `share of all edges; TV from ${from}`);
    const least = Math.max(1e-5, 0), measured = this.evaluations.find((one) => one.metric?.recovered.some((value) => value !== null));
    this.evaluations.forEach((one, index) => {
      const dashes = ["", "5 3", "2 2", "8 3 2 3"][index % 4], tone = ["attn", "mlp", "mark", "ink"][index % 4];
      const points = one.tv.map((tv, k) => [x(Math.max(least, this.sizes[k])), y(tv ?? 1)]);
      if (one.band) { // of the repetitions, under the line
        const edge = (side) => one.band.map((ends, k) => `${points[k][0]},${y(ends[side] ?? 1)}`);
        make("polygon", { points: [...edge(0), ...edge(1).reverse()].join(" "), fill: colour(tone), opacity: 0.25, class: "band" });
      }
      make("polyline", { points: points.map((point) => point.join(",")).join(" "), fill: "none", stroke: colour(tone), "stroke-width": 1.8, "stroke-dasharray": dashes });
      const below = 201 + 14 * index; // names under the axis, where no line crosses them
      make("line", { x1: 34, x2: 56, y1: below - 4, y2: below - 4, stroke: colour(tone), "stroke-width": 1.8, "stroke-dasharray": dashes });
      make("text", { x: 62, y: below }, measured ? `TV, ${one.name}` : one.name).style.fill = colour(tone);
      points.forEach((point, k) => {
        const dot = make("circle", { cx: point[0], cy: point[1], r: k === state.k ? 5 : 3, fill: colour(tone), class: "dot" });
        const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
        const again = one.band ? `, repetitions ${one.band[k].map((end) => (end ?? NaN).toFixed(3)).join(" to ")}` : "";
        title.textContent = `${percent(this.sizes[k])}: TV ${(one.tv[k] ?? NaN).toFixed(3)}${again}`; dot.append(title);
        dot.addEventListener("click", () => { state.k = k; changed(); });
      });
    });
    if (measured) {
      const points = measured.metric.recovered.map((value, k) => [x(Math.max(least, this.sizes[k])), y(Math.max(-0.06, Math.min(1.06, value ?? 0)))]);
      make("polyline", { points: points.map((point) => point.join(",")).join(" "), fill: "none", stroke: colour("ink"), "stroke-width": 2.2 });
      const half = Math.max(1, measured.metric.recovered.findIndex((value) => value >= 0.5)), [end, start] = [points[half], points[half - 1]];
      make("text", { x: (start[0] + end[0]) / 2 + 6, y: (start[1] + end[1]) / 2 + 12, class: "label" }, "recovered").style.fill = colour("ink");
    }
  }

  drawHeads() {
    const most = Math.max(1, ...this.headCounts), pen = this.map.getContext("2d");
    for (let layer = 0; layer < this.layers; layer++) for (let head = 0; head < this.heads; head++) {
      const own = state.head && state.head[0] === layer && state.head[1] === head;
      pen.globalAlpha = 1; pen.fillStyle = own ? colour("mark") : colour("faint"); pen.fillRect(head, this.layers - 1 - layer, 1, 1);
      if (own) continue;
      pen.globalAlpha = Math.sqrt(this.headCounts[layer * this.heads + head] / most); pen.fillStyle = colour("attn");
      pen.fillRect(head, this.layers - 1 - layer, 1, 1);
    }
    const best = this.headCounts.indexOf(Math.max(...this.headCounts));
    this.map.setAttribute("aria-label", `Edges by head; most at layer ${Math.floor(best / this.heads)} head ${best % this.heads}: ${this.headCounts[best]}`);
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect(), at = this.layout();
    return { at, x: event.clientX - box.left, y: event.clientY - box.top };
  }

  nearestNode({ at, x, y }) {
    const token = Math.max(0, Math.min(this.n - 1, Math.round((x - at.x(0)) / Math.max(at.dx, 0.001))));
    const unit = (at.y(0) - at.y(2 * this.layers)) / (2 * this.layers);
    let level = Math.max(0, Math.min(2 * this.layers, Math.round((at.y(0) - y) / unit)));
    if (this.parallel && level % 2) level -= 1;
    return [token, level];
  }

  click(event) {
    const place = this.place(event);
    if (place.y > place.at.y(0) + 5) { const [token] = this.nearestNode(place); state.token = state.token === token ? null : token; state.node = null; }
    else { const node = this.nearestNode(place); const same = state.node && state.node.join() === node.join(); state.node = same ? null : node; state.token = null; }
    changed();
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.key in moves) {
      const [token, level] = this.cursor || [this.n - 1, 2 * this.layers], [dx, dy] = moves[event.key], step = this.parallel ? 2 : 1;
      this.cursor = [Math.max(0, Math.min(this.n - 1, token + dx)), Math.max(0, Math.min(2 * this.layers, level + dy * step))];
      this.sayNode(this.cursor); this.draw();
    } else if (event.key === "Enter" && this.cursor) { state.node = this.cursor; state.token = null; changed(); this.sayNode(this.cursor); }
    else return;
    event.preventDefault(); event.stopPropagation();
  }

  hover(event) {
    const place = this.place(event), { at } = place;
    if (place.y > at.y(0) + 5) { this.say(`token ${this.nearestNode(place)[0]}`, this.nearestNode(place)[0]); return; }
    let best = null, distance = 9;
    for (const edge of this.drawn) {
      const [, , j, from, i, to] = edge;
      for (const t of [0.25, 0.5, 0.75]) {
        const px = i === j ? at.x(i) : (1 - t) ** 2 * at.x(j) + 2 * t * (1 - t) * at.x(i) + t * t * at.x(i);
        const py = i === j ? at.y(from) + t * (at.y(to) - at.y(from)) : (1 - t) ** 2 * at.y(from) + 2 * t * (1 - t) * at.y(from) + t * t * at.y(to);
        const off = Math.hypot(px - place.x - (edge[0] === "mlp" ? -4 : 0), py - place.y);
        if (off < distance) { distance = off; best = edge; }
      }
    }
    if (best) this.sayEdge(best); else this.say(null);
  }

  say(words, ...tokens) {
    this.words.replaceChildren();
    if (words !== null) this.words.append(words);
    for (const token of tokens) this.words.append(" ", quoted(this.tokens[token]));
  }

  sayEdge(edge) {
    const [kind, layer, j, , i, to, count, first] = edge;
    const enters = first < this.sizes.length ? `; enters at ${percent(this.sizes[first])}` : "";
    const row = layer * this.n + i, edges = this.layers * this.heads * this.pairs, rows = this.layers * this.n;
    const scored = (at) => { const score = this.scoreOf(at); return score === null ? "" : `; score ≈ ${rounded(score)}`; };
    const own = row + (kind === "mlp" ? 2 * rows + edges : to % 2 || this.parallel ? 0 : rows + edges);
    const parts = { residual: `layer ${layer}, residual past ${to % 2 ? "attention" : this.parallel ? "the block" : "the MLP"}, at [${i}]`, mlp: `layer ${layer}, MLP, at [${i}]` };
    if (kind !== "attn") { this.say(parts[kind] + scored(own) + enters + ":", i); return; }
    const named = [];
    for (let head = 0; head < this.heads; head++) {
      const at = (layer * this.heads + head) * this.pairs + this.pair(i, j);
      if ((!state.head || state.head[1] === head) && this.attn[at] <= state.k) named.push([head, this.scoreOf(rows + at)]);
    }
    const known = named.some(([, score]) => score !== null);
    if (known) named.sort((a, b) => (b[1] ?? -Infinity) - (a[1] ?? -Infinity));
    const told = named.slice(0, known ? 8 : named.length).map(([head, score], at) => score === null || count === 1 ? head : `${head} (${at ? "" : "score "}≈ ${rounded(score)})`);
    const more = named.length > told.length ? ` and ${named.length - told.length} more` : "";
    const single = count === 1 ? scored(rows + (layer * this.heads + named[0][0]) * this.pairs + this.pair(i, j)) : "";
    this.say(`layer ${layer}, ${count === 1 ? "head" : "heads"} ${told.join(", ")}${more}${single}, from [${j}] to [${i}]${enters}:`, j, i);
  }

  sayNode([token, level]) {
    const reads = this.all.filter((edge) => edge[4] === token && edge[5] === level);
    const writes = this.all.filter((edge) => edge[2] === token && edge[3] === level);
    const sum = (edges) => edges.reduce((total, edge) => total + edge[6], 0);
    const where = level === 2 * this.layers ? "past the last layer" : level % 2 ? `layer ${(level - 1) / 2}, past attention` : level ? `entering layer ${level / 2}` : "the embedding";
    this.say(`[${token}] ${where}: reads ${sum(reads)} edges, writes to ${sum(writes)}:`, token);
  }
}

class CanvasPen {
  constructor(canvas) { this.canvas = canvas; this.pen = canvas.getContext("2d"); }
  begin(width, height) {
    this.looks = new Map();
    const ratio = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio); this.canvas.height = Math.round(height * ratio); this.canvas.style.height = `${height}px`;
    }
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.pen.fillStyle = colour("paper"); this.pen.globalAlpha = 1; this.pen.fillRect(0, 0, width, height);
  }
  /** The path of all strokes of one look, which are drawn together. */
  path(tone, width, alpha) {
    const look = `${tone} ${width} ${alpha}`;
    if (!this.looks.has(look)) this.looks.set(look, { tone, width, alpha, path: new Path2D() });
    return this.looks.get(look).path;
  }
  line(a, b, c, d, tone, width, alpha) { const path = this.path(tone, width, alpha); path.moveTo(a, b); path.lineTo(c, d); }
  curve(a, b, e, f, c, d, tone, width, alpha) { const path = this.path(tone, width, alpha); path.moveTo(a, b); path.quadraticCurveTo(e, f, c, d); }
  flush() {
    for (const { tone, width, alpha, path } of [...this.looks.values()].sort((a, b) => a.alpha - b.alpha)) {
      this.pen.strokeStyle = tone; this.pen.lineWidth = width; this.pen.globalAlpha = alpha; this.pen.stroke(path);
    }
    this.looks.clear();
  }
  dot(x, y, size, tone) { this.pen.globalAlpha = 1; this.pen.fillStyle = tone; this.pen.beginPath(); this.pen.arc(x, y, size, 0, 7); this.pen.fill(); }
  text(words, x, y, tone, size, angle, bold) {
    this.pen.save(); this.pen.globalAlpha = 1; this.pen.fillStyle = tone; this.pen.font = `${bold ? "bold " : ""}${size}px system-ui, sans-serif`;
    this.pen.translate(x, y); this.pen.rotate(angle * Math.PI / 180); this.pen.fillText(words, 0, 0); this.pen.restore();
  }
}

class SvgPen {
  begin(width, height) { this.parts = []; this.size = [width, height]; this.parts.push(`<rect width="100%" height="100%" fill="${colour("paper")}"/>`); }
  line(a, b, c, d, tone, width, alpha) { this.path(`M${a} ${b}L${c} ${d}`, tone, width, alpha); }
  curve(a, b, e, f, c, d, tone, width, alpha) { this.path(`M${a} ${b}Q${e} ${f} ${c} ${d}`, tone, width, alpha); }
  path(d, tone, width, alpha) { this.parts.push(`<path d="${d}" fill="none" stroke="${tone}" stroke-width="${width}" opacity="${alpha}"/>`); }
  flush() {}
  dot(x, y, size, tone) { this.parts.push(`<circle cx="${x}" cy="${y}" r="${size}" fill="${tone}"/>`); }
  text(words, x, y, tone, size, angle, bold) {
    const safe = words.replace(/[<>&"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
    this.parts.push(`<text transform="translate(${x} ${y}) rotate(${angle})" font-size="${size}" font-family="sans-serif"${bold ? ' font-weight="bold"' : ""} fill="${tone}">${safe}</text>`);
  }
  done() { return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${this.size.join(" ")}">${this.parts.join("")}</svg>`; }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob); link.download = name; link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

let panels = [], waiting = false;
function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame((now) => { waiting = false; refresh(paced(now)); });
}

/** How many curves a picture has that others follow: as many as 30 pictures a second allow; all of them once it rests. */
let last = 0, rest = 0;
function paced(now) {
  const gap = now - last;
  last = now;
  clearTimeout(rest);
  if (gap > 200) return MOST; // the first one after a pause
  budget = Math.round(gap > 31 ? Math.max(FEWEST, budget * 0.7) : gap < 22 ? Math.min(MOST, budget * 1.15) : budget);
  if (budget < MOST) rest = setTimeout(() => refresh(MOST), 150);
  return budget;
}

function refresh(most = MOST) {
  readTones();
  const first = panels[0];
  $("size").value = state.k;
  const words = state.k === first.sizes.length - 1 ? "the full graph" : `${percent(first.sizes[state.k])}, ${first.counts[state.k].toLocaleString("en")} edge${first.counts[state.k] === 1 ? "" : "s"}`;
  $("size-text").textContent = words;
  $("size").setAttribute("aria-valuetext", words);
  for (const panel of panels) panel.update(most);
  showPredictions();
  const parts = [`k=${state.k}`];
  if (state.head) parts.push(`head=${state.head.join(".")}`);
  if (state.node) parts.push(`node=${state.node.join(".")}`);
  if (state.token !== null) parts.push(`token=${state.token}`);
  try { history.replaceState(null, "", "#" + parts.join("&")); } catch { /* pages inside a notebook have no address */ }
}

/** What every evaluation predicts at this size: a row each, and the model's own prediction above them. */
function showPredictions() {
  const rows = panels.flatMap((panel) => panel.evaluations.map((one) => [panels.length > 1 ? `${panel.name}: ${one.name}` : one.name, one]));
  $("prediction").hidden = !rows.length;
  if (!rows.length) return;
  const metric = rows.find(([, one]) => one.metric)?.[1].metric, full = rows[0][1].full;
  const caption = element("caption", "The model predicts ");
  full.slice(0, 3).forEach(([word, prob], at) => caption.append(at ? ", " : "", quoted(word), ` ${(100 * prob).toFixed(0)}%`));
  caption.append(metric ? `; the metric is ${shown(metric.name)}` : "");
  const titles = ["Ablation", "Top token", "TV", "KL", ...(metric ? ["Metric", "Recovered"] : [])];
  const head = element("tr", ...titles.map((title) => { const cell = element("th", title); cell.scope = "col"; return cell; }));
  const number = (value, digits) => value === null || value === undefined ? "–" : value.toFixed(digits);
  const body = rows.map(([name, one]) => {
    const first = element("th", name), k = state.k;
    first.scope = "row";
    const cells = [element("td", quoted(one.top[k])), element("td", number(one.tv[k], 3)), element("td", number(one.kl[k], 3))];
    const share = one.metric?.recovered[k] ?? null;
    if (metric) cells.push(element("td", number(one.metric?.values[k], 2)), element("td", share === null ? "–" : `${(100 * share).toFixed(0)}%`));
    return element("tr", first, ...cells);
  });
  $("prediction").replaceChildren(element("table", caption, element("thead", head), element("tbody", ...body)));
}

/** The counterfactual prompt under the title, and the answer in words. */
function showAnswer() {
  $("answer").replaceChildren(...data.answer ? data.answer.map((line) => element("li", line)) : []);
  const pair = panels.find((panel) => panel.counterfactual);
  $("pair").hidden = !pair;
  if (!pair) return;
  const marked = (words) => words.map((word, at) => pair.differs[at] ? element("mark", shown(word)) : shown(word));
  $("pair").replaceChildren("Text: ", ...marked(pair.tokens), element("br"), "Counterfactual: ", ...marked(pair.counterfactual));
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1)), first = panels[0];
  const whole = (text, least, most) => /^\d+$/.test(text ?? "") && +text >= least && +text <= most ? +text : null;
  state.k = whole(asked.get("k"), 0, first.sizes.length - 1) ?? data.start;
  const two = (name, a, b) => { const [x, y] = (asked.get(name) ?? "").split("."), p = whole(x, 0, a), q = whole(y, 0, b); return p === null || q === null ? null : [p, q]; };
  state.head = two("head", first.layers - 1, first.heads - 1);
  state.node = two("node", first.n - 1, 2 * first.layers);
  state.token = whole(asked.get("token"), 0, first.n - 1);
}

async function start() {
  for (const trace of data.traces) panels.push(new Panel(trace, await unpacked(trace.strata), trace.scores ? await unpacked(trace.scores.codes) : null));
  const first = panels[0], last = first.sizes.length - 1, layers = Math.min(...panels.map((panel) => panel.layers));
  $("summary").textContent = data.summary;
  showAnswer();
  $("size").max = last;
  for (const [id, value] of [["from-layer", 0], ["to-layer", layers - 1]]) { $(id).max = layers - 1; $(id).value = value; }
  readAddress();
  $("size").addEventListener("input", () => { state.k = +$("size").value; changed(); });
  for (const id of ["show-residual", "show-attn", "show-mlp", "from-layer", "to-layer"]) $(id).addEventListener("input", () => {
    $("from-layer").value = Math.max(0, Math.min(layers - 1, +$("from-layer").value)); $("to-layer").value = Math.max(0, Math.min(layers - 1, +$("to-layer").value)); changed();
  });
  $("with-scores").hidden = !panels.some((panel) => panel.scores);
  $("least-score").addEventListener("input", () => {
    const text = $("least-score").value;
    for (const panel of panels) panel.keepScores(text === "" ? null : +text);
    changed();
  });
  const clear = () => { state.head = state.node = state.token = null; changed(); };
  $("clear").addEventListener("click", clear);
  $("png").addEventListener("click", () => first.canvas.toBlob((blob) => save(blob, "trace.png")));
  $("svg").addEventListener("click", () => save(new Blob([first.draw(new SvgPen()).done()], { type: "image/svg+xml" }), "trace.svg"));
  $("play").addEventListener("click", () => play(!state.playing, last));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") clear();
    const typing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      state.k = Math.max(0, Math.min(last, state.k + (event.key === "ArrowRight" ? 1 : -1))); changed(); event.preventDefault();
    }
  });
  window.addEventListener("hashchange", () => { readAddress(); changed(); });
  window.addEventListener("resize", changed);
  for (const [event, printed] of [["beforeprint", true], ["afterprint", false]]) window.addEventListener(event, () => {
    document.documentElement.classList.toggle("printed", printed); refresh(); // pictures on paper are light ones
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  refresh();
  document.body.dataset.ready = "true";
}

function play(on, last) {
  clearInterval(state.playing); state.playing = 0;
  if (on) {
    if (state.k >= last) state.k = 0;
    state.playing = setInterval(() => { if (state.k >= last) play(false, last); else { state.k += 1; changed(); } }, 450);
  }
  $("play").textContent = on ? "Pause" : "Play"; $("play").setAttribute("aria-pressed", String(Boolean(on)));
  changed();
}

start();
