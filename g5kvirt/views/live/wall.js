// The wall of VMs in the browser. What is known of them is kept once a model, in a store, which is told of
// changes; each view draws from it. The kernel is never asked anything: it is busy.

const RECORD = 12; // bytes: place u32, state u8, attempt u8, step u16, since f32 (widget.py has the same)

const CROSSED = 9; // pixels: on smaller cells a cross would hide the colour (static.py has the same)

const stores = new Map();

export class Store {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.wholeAgain();
    this.clockIs(model.get("clock"));
    model.on("change:wall change:cells change:words change:reasons", () => this.wholeSoon());
    model.on("change:clock", () => this.clockIs(model.get("clock")));
    model.on("change:head", () => this.views.forEach((view) => view.showHead()));
    model.on("msg:custom", (message, buffers) => this.take(message, buffers));
  }

  // The traits of a whole picture come one after the other; the picture is read when all are there.
  wholeSoon() {
    if (this.pending) return;
    this.pending = true;
    queueMicrotask(() => {
      this.pending = false;
      this.wholeAgain();
      this.views.forEach((view) => view.drawAll());
    });
  }

  wholeAgain() {
    const { model } = this;
    this.wall = model.get("wall");
    this.words = [...model.get("words")];
    this.reasons = new Map(Object.entries(model.get("reasons")).map(([place, why]) => [+place, why]));
    const count = (this.wall.names || []).length;
    this.state = new Uint8Array(count);
    this.attempt = new Uint8Array(count);
    this.step = new Uint16Array(count);
    this.since = new Float32Array(count);
    this.read(model.get("cells"));
  }

  // Returns the places that a buffer of records is about.
  read(view) {
    const places = [];
    if (!view || !view.byteLength) return places;
    const data = new DataView(view.buffer || view, view.byteOffset || 0, view.byteLength);
    for (let at = 0; at + RECORD <= data.byteLength; at += RECORD) {
      const place = data.getUint32(at, true);
      if (place >= this.state.length) continue;
      this.state[place] = data.getUint8(at + 4);
      this.attempt[place] = data.getUint8(at + 5);
      this.step[place] = data.getUint16(at + 6, true);
      this.since[place] = data.getFloat32(at + 8, true);
      places.push(place);
    }
    return places;
  }

  take(message, buffers) {
    this.words.push(...message.words);
    for (const [place, why] of Object.entries(message.reasons)) this.reasons.set(+place, why);
    this.clockIs(message.clock);
    const places = this.read(buffers[0]);
    this.views.forEach((view) => view.drawSome(places));
  }

  clockIs(seconds) {
    this.clock = seconds - performance.now() / 1000;
  }

  now() {
    return this.clock + performance.now() / 1000;
  }

  explain(place) {
    const [label] = this.model.get("states")[this.state[place]];
    const block = this.wall.blocks.find((b) => place >= b.first && place < b.first + b.count);
    const seconds = Math.max(0, this.now() - this.since[place]);
    const step = this.words[this.step[place]];
    const lines = [this.wall.names[place]];
    if (block && block.host) lines.push(block.host);
    lines.push(step ? `${label}, at ${step} for ${inWords(seconds)}` : label);
    if (this.attempt[place] > 1) lines.push(`attempt ${this.attempt[place]}`);
    if (this.reasons.get(place)) lines.push(this.reasons.get(place));
    return lines.join("\n");
  }
}

function inWords(seconds) {
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

class View {
  constructor(store, el) {
    this.store = store;
    this.root = make("div", "g5kvirt-live", el);
    // While this is shown, the static picture in the output beside it is not.
    const picture = `[data-g5kvirt-picture="${CSS.escape(store.model.get("key"))}"]`;
    const hide = `${picture}, .jp-OutputArea-child:has(${picture}) { display: none !important; }`;
    make("style", "", this.root).textContent = hide;
    this.head = make("div", "g5kvirt-head", this.root);
    this.frame = make("div", "g5kvirt-wall", this.root);
    this.canvas = make("canvas", "", this.frame);
    this.canvas.setAttribute("role", "img");
    this.ring = make("div", "g5kvirt-ring", this.frame);
    this.tip = make("div", "g5kvirt-tip", this.frame);
    this.canvas.addEventListener("mousemove", (event) => this.hover(event));
    this.canvas.addEventListener("mouseleave", () => this.point(null));
    this.timer = setInterval(() => this.place !== null && this.point(this.place), 250);
    this.point(null);
    this.showHead();
    this.drawAll();
    store.views.add(this);
  }

  remove() {
    clearInterval(this.timer);
    this.store.views.delete(this);
    this.root.remove();
  }

  showHead() {
    this.head.innerHTML = this.store.model.get("head"); // made and escaped in static.py
  }

  drawAll() {
    const { wall, state } = this.store;
    this.canvas.hidden = !state.length;
    this.canvas.dataset.vms = state.length;
    this.canvas.setAttribute("aria-label", `${state.length} VMs by state`);
    this.root.style.maxWidth = wall.width ? `${wall.width}px` : "";
    if (!state.length) return this.point(null);
    this.corners = [];
    for (const block of wall.blocks)
      for (let i = 0; i < block.count; i++)
        this.corners.push([
          block.x + (i % block.columns) * wall.pitch,
          block.y + Math.floor(i / block.columns) * wall.pitch,
        ]);
    const scale = Math.max(1, window.devicePixelRatio || 1);
    this.canvas.width = wall.width * scale;
    this.canvas.height = wall.height * scale;
    this.canvas.style.aspectRatio = `${wall.width} / ${wall.height}`;
    this.pen = this.canvas.getContext("2d");
    this.pen.scale(scale, scale);
    this.pen.fillStyle = getComputedStyle(this.root).color;
    for (const label of wall.labels) {
      this.pen.font = `${label.strong ? "bold " : ""}11px sans-serif`;
      this.pen.globalAlpha = label.strong ? 1 : 0.65;
      this.pen.fillText(label.text, label.x, label.y);
    }
    this.drawSome(this.corners.keys());
  }

  drawSome(places) {
    const { wall, state, model } = this.store;
    if (!this.pen) return;
    const states = model.get("states");
    const size = wall.size;
    for (const place of places) {
      const [x, y] = this.corners[place];
      this.pen.globalAlpha = state[place] === 0 ? 0.45 : 1;
      this.pen.fillStyle = states[state[place]][1];
      this.pen.clearRect(x, y, size, size);
      this.pen.fillRect(x, y, size, size);
      if (state[place] !== states.length - 1 || size < CROSSED) continue;
      this.pen.strokeStyle = "#fff"; // failed: colour is not the only sign
      this.pen.beginPath();
      this.pen.moveTo(x + 1, y + 1);
      this.pen.lineTo(x + size - 1, y + size - 1);
      this.pen.moveTo(x + size - 1, y + 1);
      this.pen.lineTo(x + 1, y + size - 1);
      this.pen.stroke();
    }
  }

  hover(event) {
    const { wall } = this.store;
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) * wall.width) / box.width;
    const y = ((event.clientY - box.top) * wall.height) / box.height;
    this.point(placeAt(wall, x, y));
  }

  // Explain the VM at this place, or none.
  point(place) {
    this.place = place;
    const { wall, state } = this.store;
    this.ring.hidden = this.tip.hidden = place === null || place >= state.length;
    if (this.tip.hidden) return;
    const [x, y] = this.corners[place];
    const scale = this.canvas.clientWidth / wall.width;
    Object.assign(this.ring.style, {
      left: `${x * scale}px`,
      top: `${y * scale}px`,
      width: `${wall.size * scale}px`,
      height: `${wall.size * scale}px`,
    });
    this.tip.textContent = this.store.explain(place);
    const right = x > wall.width * 0.6;
    this.tip.style.left = right ? "" : `${(x + wall.pitch) * scale + 6}px`;
    this.tip.style.right = right ? `${this.frame.clientWidth - x * scale + 6}px` : "";
    const lowest = this.frame.clientHeight - this.tip.offsetHeight; // below it an output's edge cuts it off
    this.tip.style.top = `${Math.max(0, Math.min((y + wall.pitch) * scale + 4, lowest))}px`;
  }
}

// The VM at a point of the wall, or null.
export function placeAt(wall, x, y) {
  for (const block of wall.blocks || []) {
    const column = Math.floor((x - block.x) / wall.pitch);
    const row = Math.floor((y - block.y) / wall.pitch);
    const i = row * block.columns + column;
    if (column >= 0 && column < block.columns && row >= 0 && i < block.count) return block.first + i;
  }
  return null;
}

function make(tag, name, parent) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  parent.appendChild(element);
  return element;
}

function storeOf(model) {
  const key = model.get("key");
  if (!stores.has(key)) stores.set(key, new Store(model));
  return stores.get(key);
}

function initialize({ model }) {
  storeOf(model);
  return () => stores.delete(model.get("key"));
}

function render({ model, el }) {
  const view = new View(storeOf(model), el);
  return () => view.remove();
}

export default { initialize, render };
