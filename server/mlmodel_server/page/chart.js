// Lines over the last minutes. The legend has the values of now, or of the time under the pointer.

const HEIGHT = 192, LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 20;

class Chart {
  /** `lines` are {key, name, kind}, `kind` is a class of the style sheet; `format` formats a value. */
  constructor(target, title, lines, { format, logarithmic = false, empty }) {
    Object.assign(this, { title, lines, format, logarithmic, empty, points: [], at: null });
    this.legend = element("span", { class: "legend" });
    this.svg = svg("svg", { class: "plot", role: "img" });
    target.replaceChildren(element("figure", {}, element("figcaption", {}, element("b", {}, title), this.legend), this.svg));
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.paint()).observe(this.svg);
  }

  /** Draws `points` of {time, values}, oldest first, over `span` seconds; null is a gap. */
  draw(points, span) {
    Object.assign(this, { points, span });
    this.paint();
  }

  point(event) {
    if (event) {
      const { left, width } = this.svg.getBoundingClientRect();
      const share = (event.clientX - left - LEFT) / (width - LEFT - RIGHT);
      this.at = this.end - this.span * (1 - Math.max(0, Math.min(1, share)));
    } else this.at = null;
    this.paint();
  }

  get end() {
    return this.points.at(-1)?.time ?? 0;
  }

  paint() {
    const width = this.svg.clientWidth;
    if (!width) return;
    const values = this.points.flatMap((point) => this.lines.map(({ key }) => point.values[key])).filter((value) => value > 0);
    const scale = this.logarithmic ? logScale(values) : linearScale(values);
    const x = (time) => LEFT + (width - LEFT - RIGHT) * (1 - (this.end - time) / this.span);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - scale.share(value));
    const current = this.at === null ? this.points.at(-1) : nearest(this.points, this.at);
    const parts = [
      ...scale.ticks.flatMap((tick) => [
        svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
        svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, this.format(tick)),
      ]),
      svg("text", { x: LEFT, y: HEIGHT - 4 }, `${Math.round(this.span / 60)} minutes ago`),
      svg("text", { x: width - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, "now"),
      ...this.lines.flatMap(({ key, kind }) => this.curve(key, kind, x, y)),
    ];
    if (this.at !== null && current) parts.push(svg("line", { class: "cursor", x1: x(current.time), x2: x(current.time), y1: TOP, y2: HEIGHT - BOTTOM }));
    if (!values.length) parts.push(svg("text", { x: (width + LEFT) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, this.empty));
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(...parts);
    this.showLegend(current);
  }

  /** Returns one line, in pieces between its gaps; a single point is a dot. */
  curve(key, kind, x, y) {
    const pieces = [[]];
    for (const { time, values } of this.points) {
      if (values[key] === null || values[key] === undefined) pieces.push([]);
      else if (time >= this.end - this.span) pieces.at(-1).push([x(time), y(values[key])]);
    }
    return pieces.filter((piece) => piece.length).flatMap((piece) => {
      if (piece.length === 1) return [svg("circle", { class: `line ${kind}`, cx: piece[0][0], cy: piece[0][1], r: 2.5 })];
      const path = piece.map(([left, top]) => `${left.toFixed(1)} ${top.toFixed(1)}`).join("L");
      const line = svg("path", { class: `line ${kind}`, d: `M${path}` });
      if (this.logarithmic) return [line];
      const floor = y(0);
      const area = `M${piece[0][0]} ${floor}L${path}L${piece.at(-1)[0]} ${floor}Z`;
      return [svg("path", { class: `area ${kind}`, d: area }), line];
    });
  }

  showLegend(current) {
    const values = this.lines.map(({ key, name, kind }) => [name, kind, current ? this.format(current.values[key] ?? NaN) : "–"]);
    const when = this.at === null || !current ? "" : `${Math.round(this.end - current.time)} s ago: `;
    this.legend.replaceChildren(when, ...values.map(([name, kind, value]) => element("span", {},
      svg("svg", { viewBox: "0 0 26 11", "aria-hidden": "true" }, svg("path", { class: `line ${kind}`, d: "M0 6H26" })), `${name} ${value}`)));
    this.svg.setAttribute("aria-label", `${this.title}, now: ${values.map(([name, , value]) => `${name} ${value}`).join(", ")}`);
  }
}

const nearest = (points, time) =>
  points.reduce((best, point) => (Math.abs(point.time - time) < Math.abs(best.time - time) ? point : best), points[0]);

/** Returns a scale from 0 to a round number above all values. */
const linearScale = (values) => {
  const most = Math.max(...values, 1e-9);
  const power = 10 ** Math.floor(Math.log10(most));
  const step = [0.5, 1, 2, 2.5, 5, 10].map((times) => times * power).find((size) => most / size <= 4);
  const top = Math.ceil(most / step) * step;
  return { share: (value) => value / top, ticks: values.length ? Array.from({ length: Math.round(top / step) + 1 }, (_, place) => place * step) : [0] };
};

/** Returns a scale of whole decades around the values, with ticks at 2 and 5 for one or two decades. */
const logScale = (values) => {
  if (!values.length) return { share: () => 0, ticks: [] };
  const low = Math.floor(Math.log10(Math.min(...values))), high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const steps = high - low <= 2 ? [1, 2, 5] : [1];
  const ticks = Array.from({ length: high - low }, (_, place) => steps.map((step) => step * 10 ** (low + place))).flat();
  return { share: (value) => Math.max(0, (Math.log10(value) - low) / (high - low)), ticks: [...ticks, 10 ** high] };
};
