// Live charts of the differences between readings of the server's counts. Several replicas may answer in turn at one
// address: the start time of the counts identifies each.

const EVERY = 2; // seconds between readings
const SPAN = 300; // seconds of the charts
const SMOOTH = 10; // seconds of requests for one quantile
const TERMINATED = 60; // seconds without a reading after which a replica is dropped

/** Returns what one replica counted between two readings. */
const difference = (before, after) => {
  const change = (of) => of(after.stats) - of(before.stats);
  const histogram = (part) => ({
    counts: after.stats.seconds[part].counts.map((many, place) => many - before.stats.seconds[part].counts[place]),
    sum: change((stats) => stats.seconds[part].sum),
  });
  return {
    from: before.time, to: after.time,
    all: change((stats) => total(stats, /./)),
    failed: change((stats) => total(stats, /^5/)),
    total: histogram("total"), queue: histogram("queue"), compute: histogram("compute"),
  };
};

const total = (stats, codes) => Object.entries(stats.requests).reduce((sum, [code, many]) => sum + (codes.test(code) ? many : 0), 0);
const added = (many) => many.reduce((sum, counts) => sum.map((value, place) => value + counts[place]));

/** Returns a quantile of a histogram, interpolated within its bucket; NaN without counts. */
const quantile = (counts, bounds, share) => {
  let left = share * counts.reduce((sum, many) => sum + many, 0);
  if (!left) return NaN;
  for (const [place, many] of counts.entries()) {
    const low = place ? bounds[place - 1] : 0;
    if (many >= left) return low + ((bounds[place] ?? low) - low) * (left / many);
    left -= many;
  }
  return bounds.at(-1);
};

const live = {
  replicas: new Map(), // of the version of this page: the last reading by start time
  steps: [], // differences of all replicas, oldest first
  revision: null,
  other: "",
  part: "total",
  columns: 0,

  start(columns) {
    this.columns = columns;
    this.traffic = new Chart($("traffic"), "Requests per second", [{ key: "all", name: "all", kind: "all" }, { key: "failed", name: "failed", kind: "bad" }],
      { format: (value) => number(value, 3), empty: "no requests in the last 5 minutes" });
    this.latency = new Chart($("latency"), "Latency", ["p50", "p95", "p99"].map((key) => ({ key, name: key, kind: key })),
      { format: duration, logarithmic: true, empty: "no requests in the last 5 minutes" });
    $("part").addEventListener("change", (event) => {
      this.part = event.target.value;
      this.draw();
    });
    document.addEventListener("visibilitychange", () => document.hidden || this.now());
    $("live").hidden = false;
    this.now();
  },

  /** Reads the counts now, and then periodically while the page is visible. */
  async now() {
    clearTimeout(this.timer);
    const turn = (this.turn = {});
    try {
      const stats = await requestJson(modelPath("stats"));
      this.add(stats);
      this.showState(true, "responds");
    } catch (error) {
      this.showState(false, error.status === 401 ? "requires an API key" : "does not respond");
    }
    if (turn === this.turn && !document.hidden) this.timer = setTimeout(() => this.now(), EVERY * 1000);
  },

  showState(good, text) {
    $("state").className = `state ${good ? "good" : "bad"}`;
    if ($("state").textContent !== text) $("state").textContent = text;
  },

  add(stats) {
    const time = performance.now() / 1000;
    this.revision ??= stats.revision;
    if (stats.revision !== this.revision) {
      this.other = stats.version;
    } else {
      const reading = { stats, time }, before = this.replicas.get(stats.since);
      if (before) this.steps.push(difference(before, reading));
      this.replicas.set(stats.since, reading);
    }
    this.steps = this.steps.filter((step) => step.to > time - SPAN - SMOOTH);
    for (const [since, reading] of this.replicas) if (reading.time < time - TERMINATED) this.replicas.delete(since);
    this.draw();
  },

  draw() {
    const readings = [...this.replicas.values()];
    if (!readings.length) {
      $("live-note").textContent = `Version ${this.other} answers now: reload the page to see it.`;
      return;
    }
    const stats = readings.map((reading) => reading.stats);
    const end = Math.max(...readings.map((reading) => reading.time));
    const points = [];
    for (let time = end - SPAN; time <= end + 1e-9; time += EVERY) points.push({ time, values: this.at(time, stats[0].buckets) });
    this.traffic.draw(points, SPAN);
    this.latency.draw(points, SPAN);
    this.showTiles(stats, end);
    const busiest = stats.reduce((most, one) => (one.rows > most.rows ? one : most));
    drift.show(busiest, this.columns);
    scores.show(busiest);
    $("live-note").textContent = [
      stats.length > 1 ? `${stats.length} replicas answer; predictions, scores and drift are those of the busiest.` : "",
      this.other ? `Version ${this.other} answers some requests too.` : "",
    ].join(" ").trim();
  },

  /** Returns rates and quantiles at one time; null without a reading or without requests. */
  at(time, bounds) {
    const now = this.steps.filter(({ from, to }) => from < time && time <= to + 1e-6);
    const lately = this.steps.filter(({ from, to }) => to > time - SMOOTH && from < time);
    const rate = (key) => (now.length ? now.reduce((sum, step) => sum + step[key] / (step.to - step.from), 0) : null);
    const counts = now.length && lately.length ? added(lately.map((step) => step[this.part].counts)) : [];
    const of = (share) => { const value = quantile(counts, bounds, share); return Number.isNaN(value) ? null : value; };
    return { all: rate("all"), failed: rate("failed"), p50: of(0.5), p95: of(0.95), p99: of(0.99) };
  },

  showTiles(stats, end) {
    const sum = (of) => stats.reduce((all, one) => all + of(one), 0);
    const lately = this.steps.filter(({ to }) => to > end - SMOOTH);
    const seconds = lately.reduce((span, step) => span + step.to - step.from, 0) / Math.max(1, stats.length);
    const all = sum((one) => total(one, /./)), failed = sum((one) => total(one, /^5/)), rejected = sum((one) => total(one, /^4/));
    const life = added(stats.map((one) => one.seconds.total.counts));
    const median = (share) => duration(quantile(life, stats[0].buckets, share));
    const hours = (Date.now() / 1000 - Math.min(...stats.map((one) => one.since))) / 3600;
    const tile = (id, name, value, note, kind = "") => element("div", {}, element("dt", {}, name),
      element("dd", { id, class: kind }, value, element("small", {}, note)));
    $("tiles").replaceChildren(
      tile("rate", "Requests per second", seconds ? number(lately.reduce((many, step) => many + step.all, 0) / seconds, 3) : "–",
        `${count(all)} in ${hours < 1 ? plural(Math.max(1, Math.round(hours * 60)), "minute") : plural(Math.round(hours), "hour")}`),
      tile("median", "Median latency", median(0.5), `p95 ${median(0.95)}, p99 ${median(0.99)}`),
      tile("failed", "Failed", count(failed), all ? `${percent(failed / all, 2)} of all requests` : "no requests yet", failed ? "bad" : ""),
      tile("rejected", "Rejected", count(rejected), "answered with a 4xx"),
      tile("in-flight", "In flight", count(sum((one) => one.in_flight)), `${count(sum((one) => one.queued))} of them wait`),
    );
    this.showSplit(stats);
  },

  /** Shows how the time of a request is split, on average. */
  showSplit(stats) {
    const sum = (part) => stats.reduce((all, one) => all + one.seconds[part].sum, 0);
    const whole = sum("total"), queue = sum("queue"), compute = sum("compute"), rest = Math.max(0, whole - queue - compute);
    const parts = [["queue", "waiting", queue], ["compute", "computing", compute], ["rest", "reading and writing", rest]];
    replace($("split"), `${whole}`, () => whole ? [
      element("b", {}, "Where the time goes"),
      element("div", { class: "track", "aria-hidden": "true" }, ...parts.map(([kind, , seconds]) => bar(seconds / whole, { class: kind }))),
      ...parts.flatMap(([kind, name, seconds]) => [element("span", { class: `swatch ${kind}` }), `${name} ${percent(seconds / whole, 0)}`]),
    ] : []);
  },
};
