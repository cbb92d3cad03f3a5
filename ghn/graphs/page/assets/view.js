// Moving about: pan, zoom, pinch, and the small map.
"use strict";

const CLOSEST = 2.5, FURTHEST = 0.03;

class View {
  /** Shows `group`, of the given size, inside `stage`; `map` is the canvas of the small map. */
  constructor(stage, svgElement, map) {
    this.stage = stage;
    this.svg = svgElement;
    this.map = map;
    this.at = { x: 0, y: 0, scale: 1 };
    this.size = { width: 1, height: 1 };
    this.pointers = new Map();
    this.dragged = false;
    this.listen();
  }

  show(group, size, cards) {
    this.group = group;
    this.size = size;
    this.cards = cards;
    this.svg.replaceChildren(group);
    this.apply();
  }

  apply() {
    const { x, y, scale } = this.at;
    this.group.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
    this.drawMap();
  }

  /** All of it, if it can be read then; else its full width, from the top. */
  begin() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    const whole = Math.min((width - 32) / this.size.width, (height - 32) / this.size.height, 1);
    const across = Math.min(1, (width - 32) / this.size.width);
    const scale = whole > 0.75 ? whole : Math.max(across, 0.3);
    this.at = { scale, x: (width - this.size.width * scale) / 2, y: 16 };
    if (whole > 0.75) this.at.y = (height - this.size.height * scale) / 2;
    this.apply();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    const scale = Math.min((width - 24) / this.size.width, (height - 24) / this.size.height, 1);
    this.at = {
      scale, x: (width - this.size.width * scale) / 2, y: (height - this.size.height * scale) / 2,
    };
    this.apply();
  }

  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(CLOSEST, Math.max(FURTHEST, this.at.scale * factor));
    const ratio = scale / this.at.scale;
    this.at = { scale, x: x - (x - this.at.x) * ratio, y: y - (y - this.at.y) * ratio };
    this.apply();
  }

  move(dx, dy) {
    this.at.x += dx;
    this.at.y += dy;
    this.apply();
  }

  /** Brings a place of the drawing into view, and close enough to read. */
  bring(place) {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (this.at.scale < 0.6) this.at.scale = 0.9;
    const left = place.x * this.at.scale + this.at.x;
    const top = place.y * this.at.scale + this.at.y;
    const inside = left > 20 && left + CARD_WIDTH * this.at.scale < width - 20
      && top > 60 && top < height - 80;
    if (!inside) {
      this.at.x = width / 2 - (place.x + CARD_WIDTH / 2) * this.at.scale;
      this.at.y = height / 2 - place.y * this.at.scale;
    }
    this.apply();
  }

  /** Keeps a place of the drawing where it is on the screen, while the drawing changes. */
  hold(before, after) {
    this.at.x += (before.x - after.x) * this.at.scale;
    this.at.y += (before.y - after.y) * this.at.scale;
  }

  listen() {
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    window.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) {
      window.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    this.map.addEventListener("pointerdown", (event) => this.jump(event));
    this.map.addEventListener("pointermove", (event) => event.buttons && this.jump(event));
    new ResizeObserver(() => this.group && this.apply()).observe(this.stage);
    document.addEventListener("themechange", () => this.drawMap());
  }

  wheel(event) {
    event.preventDefault();
    const box = this.stage.getBoundingClientRect();
    const lines = event.deltaMode === 1 ? 16 : 1;
    if (event.ctrlKey || event.metaKey) {
      this.zoom(Math.exp(-event.deltaY * lines * 0.004), event.clientX - box.left, event.clientY - box.top);
    } else if (event.shiftKey && !event.deltaX) this.move(-event.deltaY * lines, 0);
    else this.move(-event.deltaX * lines, -event.deltaY * lines);
  }

  press(event) {
    if (this.pointers.size === 0) this.dragged = false;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    if (Math.hypot(now.x - before.x, now.y - before.y) < 3 && !this.dragged) return;
    this.dragged = true;
    if (this.pointers.size === 1) this.move(now.x - before.x, now.y - before.y);
    else this.pinch(event.pointerId, before, now);
    this.pointers.set(event.pointerId, now);
  }

  pinch(moved, before, now) {
    const other = [...this.pointers].find(([id]) => id !== moved)[1];
    const span = (p) => Math.max(1, Math.hypot(p.x - other.x, p.y - other.y));
    const box = this.stage.getBoundingClientRect();
    this.zoom(span(now) / span(before), (now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top);
  }

  mapScale() {
    return Math.min(this.map.width / this.size.width, this.map.height / this.size.height);
  }

  jump(event) {
    const box = this.map.getBoundingClientRect();
    const scale = this.mapScale();
    const x = ((event.clientX - box.left) * this.map.width) / box.width / scale;
    const y = ((event.clientY - box.top) * this.map.height) / box.height / scale;
    this.at.x = this.stage.clientWidth / 2 - x * this.at.scale;
    this.at.y = this.stage.clientHeight / 2 - y * this.at.scale;
    this.apply();
  }

  /** Draws the map; where everything is in sight there is none. */
  drawMap() {
    const { x, y, scale } = this.at;
    const { clientWidth: width, clientHeight: height } = this.stage;
    const all = x >= 0 && y >= 0 && x + this.size.width * scale <= width
      && y + this.size.height * scale <= height;
    this.map.hidden = all;
    if (all) return;
    const paint = this.map.getContext("2d");
    const { color, outlineColor } = getComputedStyle(this.map);
    const small = this.mapScale();
    paint.clearRect(0, 0, this.map.width, this.map.height);
    paint.fillStyle = color;
    for (const card of this.cards) {
      paint.fillRect(card.x * small, card.y * small, Math.max(1, card.width * small), Math.max(1, card.height * small));
    }
    paint.strokeStyle = outlineColor;
    paint.lineWidth = 2;
    const left = Math.max(1, (-x / scale) * small), top = Math.max(1, (-y / scale) * small);
    const right = Math.min(this.map.width - 1, ((width - x) / scale) * small);
    const bottom = Math.min(this.map.height - 1, ((height - y) / scale) * small);
    paint.strokeRect(left, top, right - left, bottom - top);
  }
}
