"use strict";

// Set by data.js (what is shown), model.js and wasm.js (bytes as text) and ort.js (onnxruntime-web).
const { PLAYGROUND: data, PLAYGROUND_MODEL: modelText, PLAYGROUND_WASM: wasmText } = globalThis;

const SHOWN = Math.min(12, data.gallery.length);
const STEP = 2;
const LEAP = 10;
const [HEIGHT, WIDTH] = data.size;
const HEAT = 0.62; // of a map's colours over the grey picture
const byId = (name) => document.getElementById(name);

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

async function unpacked(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// What is covered of a picture, and what the network then reads.

class Cover {
  constructor() {
    this.mask = new Uint8Array(HEIGHT * WIDTH);
    this.before = [];
  }

  remember() {
    this.before.push(this.mask.slice());
    if (this.before.length > 50) this.before.shift();
  }

  undo() {
    this.mask = this.before.pop() ?? new Uint8Array(HEIGHT * WIDTH);
  }

  disc(row, column, across, value) {
    const reach = across / 2;
    for (let y = Math.max(0, Math.floor(row - reach)); y <= Math.min(HEIGHT - 1, Math.ceil(row + reach)); y++) {
      for (let x = Math.max(0, Math.floor(column - reach)); x <= Math.min(WIDTH - 1, Math.ceil(column + reach)); x++) {
        if ((y - row) ** 2 + (x - column) ** 2 <= reach ** 2) this.mask[y * WIDTH + x] = value;
      }
    }
  }

  line(from, to, across, value) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let i = 0; i <= steps; i++) {
      const share = i / steps;
      this.disc(from[0] + share * (to[0] - from[0]), from[1] + share * (to[1] - from[1]), across, value);
    }
  }

  rows(top, bottom) {
    this.mask.fill(1, top * WIDTH, bottom * WIDTH);
  }

  over(pixels) {
    const covered = pixels.slice();
    this.mask.forEach((hidden, i) => {
      if (hidden) covered.set(data.fill, 3 * i);
    });
    return covered;
  }

  get share() {
    return mean(this.mask);
  }
}

// The network.

class Network {
  static async open() {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await unpacked(wasmText);
    ort.env.logLevel = "error";
    return new Network(await ort.InferenceSession.create(await unpacked(modelText), { executionProviders: ["wasm"] }));
  }

  constructor(session) {
    this.session = session;
  }

  async look(pixels) {
    const input = new ort.Tensor("uint8", pixels, [1, HEIGHT, WIDTH, 3]);
    const outputs = await this.session.run({ [data.input]: input });
    return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data.slice()]));
  }
}

function ranked(features, query) {
  const found = data.gallery.map((image, index) => ({
    index,
    right: image.id === query.id,
    similarity: image.features.reduce((sum, value, i) => sum + value * features[i], 0),
  }));
  return found.sort((a, b) => b.similarity - a.similarity || a.index - b.index);
}

function averagePrecision(order) {
  let right = 0;
  let sum = 0;
  order.forEach((each, place) => {
    if (each.right) sum += ++right / (place + 1);
  });
  return sum / right;
}

// Pictures.

const grey = (pixels, i) => 0.299 * pixels[3 * i] + 0.587 * pixels[3 * i + 1] + 0.114 * pixels[3 * i + 2];

function paint(canvas, colourOf) {
  const image = new ImageData(canvas.width, canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i++) {
    image.data.set(colourOf(i), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function colour(share) {
  const place = Math.round(255 * Math.min(1, Math.max(0, share)));
  return data.colours.slice(3 * place, 3 * place + 3);
}

function paintMap(canvas, pixels, values, [rows, columns], [low, high], halved) {
  paint(canvas, (i) => {
    const [y, x] = [Math.floor(i / WIDTH), i % WIDTH];
    const value = values[Math.floor((y * rows) / HEIGHT) * columns + Math.floor((x * columns) / WIDTH)];
    if (halved && y === HEIGHT / 2 && x % 4 < 2) return [255, 255, 255];
    const ground = 0.7 * grey(pixels, i) + 40;
    return colour((value - low) / (high - low)).map((part) => HEAT * part + (1 - HEAT) * ground);
  });
}

function paintBars(canvas, now, before) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
  if (!width) return;
  [canvas.width, canvas.height] = [width, height];
  const style = getComputedStyle(document.documentElement);
  const context = canvas.getContext("2d");
  const half = now.length / 2;
  const order = [...before.keys()].sort((a, b) => (a >= half) - (b >= half) || before[a] - before[b]);
  const step = width / now.length;
  order.forEach((channel, place) => {
    const [from, to] = [before[channel], now[channel]].map((value) => height * (1 - value));
    context.fillStyle = style.getPropertyValue("--was");
    context.fillRect(place * step, from, Math.max(1, step * 0.8), height - from);
    context.fillStyle = style.getPropertyValue("--accent");
    context.fillRect(place * step, Math.min(from, to) - ratio, Math.max(1, step * 0.8), Math.abs(to - from) + 2 * ratio);
  });
  context.fillStyle = style.getPropertyValue("--soft");
  for (let y = 0; y < height; y += 6 * ratio) context.fillRect(width / 2, y, ratio, 3 * ratio);
}

function node(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// The page.

class Playground {
  constructor(network) {
    this.network = network;
    this.cover = new Cover();
    this.query = data.queries[0];
    this.brush = [HEIGHT / 2, WIDTH / 2];
    this.busy = false;
    this.again = false;
    this.maps = new Map();
    this.bars = new Map();
    byId("shown").textContent = SHOWN;
    byId("total").textContent = data.gallery.length;
    this.layOutQueries();
    this.layOutRanks();
    this.layOutGates();
    this.listen();
  }

  layOutQueries() {
    data.queries.forEach((query, index) => {
      const choice = node("input", { type: "radio", name: "query", value: index, checked: index === 0 });
      choice.addEventListener("change", () => this.choose(index));
      const alt = `person ${query.id}, camera ${query.camera}`;
      byId("queries").append(node("label", {}, choice, node("img", { src: query.picture, alt })));
    });
  }

  layOutRanks() {
    this.places = Array.from({ length: SHOWN }, () => {
      const place = { image: node("img"), said: node("span"), moved: node("span", { className: "moved" }) };
      place.item = node("li", {}, place.image, place.said, node("br"), place.moved);
      byId("ranks").append(place.item);
      return place;
    });
  }

  layOutGates() {
    for (const stage of data.stages) {
      const title = `After ${stage.name}: ${stage.layer} on a map of ${stage.map.join("×")}`;
      const figures = [];
      for (const level of stage.levels) {
        const canvas = node("canvas", { role: "img" });
        const caption = node("figcaption");
        if (stage.spatial) {
          [canvas.width, canvas.height] = [WIDTH, HEIGHT];
          const scale = node("canvas", { className: "scale", width: 256, height: 1 });
          scale.setAttribute("aria-hidden", "true");
          paint(scale, (i) => colour(i / 255));
          figures.push(node("figure", {}, canvas, scale, caption));
          this.maps.set(`${stage.name}/${level.name}`, { canvas, caption });
        } else {
          const heading = node("h3", { textContent: `After ${stage.name}: ${stage.layer} on ${stage.channels} channels, ${level.title}` });
          byId("channels").append(node("figure", {}, heading, canvas, caption));
          this.bars.set(`${stage.name}/${level.name}`, { canvas, caption });
        }
      }
      if (stage.spatial) {
        const maps = node("div", { className: "maps" }, ...figures);
        byId("spatial").append(node("div", { className: "site" }, node("h3", { textContent: title }), maps));
      }
    }
  }

  listen() {
    const canvas = byId("person");
    const value = () => (byId("eraser").checked ? 0 : 1);
    const across = () => Number(byId("size").value);
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientY - box.top) / box.height) * HEIGHT - 0.5, ((event.clientX - box.left) / box.width) * WIDTH - 0.5];
    };
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.cover.remember();
      last = place(event);
      this.cover.disc(...last, across(), value());
      this.moveBrush(last);
      this.refresh();
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = place(event);
      this.moveBrush(now);
      if (last === null) return;
      this.cover.line(last, now, across(), value());
      last = now;
      this.refresh();
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, () => {
        last = null;
      });
    }
    canvas.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? LEAP : STEP;
      const moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in moves) {
        const [down, right] = moves[event.key];
        const clamp = (at, end) => Math.min(end - 1, Math.max(0, at));
        this.moveBrush([clamp(this.brush[0] + down, HEIGHT), clamp(this.brush[1] + right, WIDTH)]);
      } else if (event.key === " ") {
        this.cover.remember();
        this.cover.disc(...this.brush, across(), value());
        this.refresh();
      } else if (event.key === "u" || event.key === "U") {
        this.cover.undo();
        this.refresh();
      } else if (event.key === "Delete" || event.key === "Backspace") {
        this.clear();
      } else {
        return;
      }
      event.preventDefault();
    });
    byId("size").addEventListener("input", () => this.moveBrush(this.brush));
    byId("undo").addEventListener("click", () => {
      this.cover.undo();
      this.refresh();
    });
    byId("clear").addEventListener("click", () => this.clear());
    for (const button of document.querySelectorAll("[data-part]")) {
      button.addEventListener("click", () => {
        const part = Number(button.dataset.part);
        this.cover.remember();
        this.cover.rows(Math.round((part * HEIGHT) / 3), Math.round(((part + 1) * HEIGHT) / 3));
        this.refresh();
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh());
    new ResizeObserver(() => this.refresh()).observe(byId("channels"));
  }

  moveBrush(at) {
    this.brush = at;
    const ring = byId("brush");
    const scale = byId("person").clientWidth / WIDTH;
    ring.style.width = ring.style.height = `${Number(byId("size").value) * scale}px`;
    ring.style.top = `${(at[0] + 0.5) * scale}px`;
    ring.style.left = `${(at[1] + 0.5) * scale}px`;
  }

  clear() {
    if (!this.cover.share) return;
    this.cover.remember();
    this.cover.mask = new Uint8Array(HEIGHT * WIDTH);
    this.refresh();
  }

  choose(index) {
    this.query = data.queries[index];
    this.cover = new Cover();
    this.refresh();
  }

  // One pass at a time; what has changed meanwhile is seen by the next.
  async refresh() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    do {
      this.again = false;
      const query = this.query;
      query.clean ??= await this.network.look(query.pixels);
      const covered = this.cover.over(query.pixels);
      this.paintPerson(covered);
      this.show(query, covered, await this.network.look(covered), this.cover.share);
      await new Promise(requestAnimationFrame);
    } while (this.again);
    this.busy = false;
  }

  paintPerson(pixels) {
    paint(byId("person"), (i) => pixels.subarray(3 * i, 3 * i + 3));
    byId("person").setAttribute("aria-label", `Person ${this.query.id}, ${Math.round(100 * this.cover.share)} % covered`);
  }

  show(query, pixels, now, share) {
    const order = ranked(now[data.features], query);
    const before = ranked(query.clean[data.features], query).map((each) => each.index);
    this.showRanks(order, before);
    this.showNumbers(query, order, now, share);
    this.showGates(query, pixels, now);
    document.documentElement.dataset.similarities = JSON.stringify(order.slice(0, SHOWN).map((each) => each.similarity));
  }

  showRanks(order, before) {
    this.places.forEach((place, rank) => {
      const { index, similarity, right } = order[rank];
      const image = data.gallery[index];
      const gained = before.indexOf(index) - rank;
      if (place.image.getAttribute("src") !== image.picture) place.image.src = image.picture;
      place.image.alt = `${rank + 1}: person ${image.id}, camera ${image.camera}`;
      place.item.className = right ? "right" : "";
      place.said.textContent = `${similarity.toFixed(2)}${right ? " ✓" : ""}`;
      place.moved.textContent = gained > 0 ? `▲ ${gained}` : gained < 0 ? `▼ ${-gained}` : "–";
    });
  }

  showNumbers(query, order, now, share) {
    const first = 1 + order.findIndex((each) => each.right);
    const precision = averagePrecision(order).toFixed(2);
    const itself = query.clean[data.features].reduce((sum, value, i) => sum + value * now[data.features][i], 0);
    byId("covered").textContent = `${Math.round(100 * share)} %`;
    byId("first").textContent = first;
    byId("precision").textContent = precision;
    byId("itself").textContent = itself.toFixed(2);
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => {
      byId("said").textContent =
        `${Math.round(100 * share)} % covered. First right image at rank ${first}, average precision ${precision}.`;
    }, 600);
  }

  showGates(query, pixels, now) {
    for (const stage of data.stages) {
      const product = stage.spatial ? new Float32Array(stage.map[0] * stage.map[1]).fill(1) : null;
      for (const level of stage.levels) {
        const name = `${stage.name}/${level.name}`;
        if (stage.spatial) {
          let values = now[name];
          if (values) values.forEach((gate, i) => (product[i] *= gate));
          else values = product;
          const { canvas, caption } = this.maps.get(name);
          paintMap(canvas, pixels, values, stage.map, level.range, level.halved);
          const [low, high] = level.range.map((value) => value.toFixed(2));
          caption.textContent = `${level.title}: ${low} to ${high}; mean now ${mean(values).toFixed(3)}`;
          canvas.setAttribute("aria-label", `${level.title} after ${stage.name}, mean ${mean(values).toFixed(3)}`);
        } else {
          const { canvas, caption } = this.bars.get(name);
          const [values, before] = [now[name], query.clean[name]];
          paintBars(canvas, values, before);
          const change = mean(values.map((value, i) => Math.abs(value - before[i])));
          caption.textContent = `0 to 1; mean change ${change.toFixed(3)}`;
          canvas.setAttribute("aria-label", `${level.title} after ${stage.name}, mean change ${change.toFixed(3)}`);
        }
      }
    }
  }
}

// Features that torch computed when the page was made, beside those of this browser.
async function parity(network) {
  let largest = 0;
  for (const check of data.checks) {
    const cover = new Cover();
    if (check.rows) cover.rows(...check.rows);
    const found = (await network.look(cover.over(data.queries[check.query].pixels)))[data.features];
    check.features.forEach((value, i) => (largest = Math.max(largest, Math.abs(value - found[i]))));
  }
  return largest;
}

async function main() {
  const state = byId("state");
  for (const query of data.queries) query.pixels = bytesOf(query.pixels);
  for (const each of [...data.gallery, ...data.checks]) each.features = floatsOf(each.features);
  if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function") {
    state.textContent = "This browser has no WebAssembly, which the network needs. The pictures below show what it does.";
    document.documentElement.dataset.state = "pictures";
    return;
  }
  state.textContent = "The network is being loaded …";
  try {
    const network = await Network.open();
    const largest = await parity(network);
    byId("parity").textContent =
      `Self-check: the features computed in this browser differ from torch's by at most ${largest.toExponential(1)}.`;
    document.documentElement.dataset.parity = largest;
    byId("live").hidden = false;
    byId("pictures").open = false;
    state.hidden = true;
    const playground = new Playground(network);
    playground.moveBrush(playground.brush);
    await playground.refresh();
    document.documentElement.dataset.state = "live";
  } catch (error) {
    byId("live").hidden = true;
    byId("pictures").open = true;
    state.hidden = false;
    state.textContent = `The network does not run in this browser (${error.message}). The pictures below show what it does.`;
    document.documentElement.dataset.state = "pictures";
  }
}

main();
