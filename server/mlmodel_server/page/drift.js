// Features and predictions beside the training data, and the scores.

const WARN = 0.1, CHANGED = 0.25; // common limits of the stability index
const METER = 0.5; // the index at the right end of the scale

/** Returns the window of one report: recent, once it has enough rows for an index, else all rows since the start. */
const windowOf = (report) => (report.psi.recent === undefined ? "life" : "recent");
const WINDOWS = { recent: "the last one to two hours", life: "since the start of the server" };

const verdict = (report, minimum) => {
  const index = report.psi[windowOf(report)];
  if (index === undefined) {
    if (report.rows < minimum) return { level: "none", text: `not enough rows yet: ${count(report.rows)} of ${count(minimum)}` };
    return { level: "none", text: "too few training rows for an index" };
  }
  const [level, words] = index < WARN ? ["good", "like the training data"] : index < CHANGED ? ["warn", "differs slightly"] : ["bad", "has changed"];
  return { level, index, text: `${words} (PSI ${index.toFixed(2)})` };
};

/** Returns the bins, each with a bar for its share at training and a bar for its share now. */
const comparison = (report) => {
  const now = report[windowOf(report)];
  const known = report.training.some((share) => share > 0);
  const used = report.bins.map((_, place) => place).filter((place) => report.training[place] > 0 || now[place] > 0);
  const most = Math.max(...used.map((place) => Math.max(report.training[place], now[place])), 1e-9);
  return element("div", { class: "bars", role: "list" }, ...used.map((place) => element("div", { role: "listitem", class: "contents" },
    element("span", { class: "name" }, report.bins[place]),
    element("span", { class: "pair", "aria-hidden": "true" },
      ...(known ? [element("span", { class: "track before" }, bar(report.training[place] / most))] : []),
      element("span", { class: "track" }, bar(now[place] / most))),
    element("span", { class: "value" }, known ? `${percent(report.training[place])} → ${percent(now[place])}` : percent(now[place])))));
};

const miniature = (report) => {
  const now = report[windowOf(report)], wide = 120 / report.bins.length;
  const most = Math.max(...report.training, ...now, 1e-9);
  const column = (share, kind, left, width) =>
    svg("rect", { class: kind, x: left, y: 30 - 28 * share / most, width, height: 28 * share / most });
  return svg("svg", { class: "mini", viewBox: "0 0 120 30", preserveAspectRatio: "none", "aria-hidden": "true" },
    ...report.bins.flatMap((_, place) => [
      column(report.training[place], "before", place * wide + wide * 0.08, wide * 0.4),
      column(now[place], "now", place * wide + wide * 0.5, wide * 0.4),
    ]));
};

const meter = ({ index, level }) => {
  const at = (value) => 4 + 152 * Math.min(value, METER) / METER;
  return svg("svg", { class: "psi", viewBox: "0 0 160 30", "aria-hidden": "true" },
    svg("rect", { class: "track", x: 4, y: 6, width: 152, height: 8, rx: 3 }),
    ...(index === undefined ? [] : [svg("rect", { class: level, x: 4, y: 6, width: Math.max(2, at(index) - 4), height: 8, rx: 3 })]),
    ...[WARN, CHANGED].flatMap((limit) => [
      svg("line", { class: "limit", x1: at(limit), x2: at(limit), y1: 3, y2: 17 }),
      svg("text", { x: at(limit), y: 27, "text-anchor": "middle" }, String(limit)),
    ]));
};

const drift = {
  rows: new Map(),

  /** Shows the reports of one replica; `columns` is the number of columns of the model. */
  show(stats, columns) {
    const reports = stats.drift.slice();
    const predicted = reports.at(-1)?.name === "predict" ? reports.pop() : null;
    this.showPredictions(predicted, stats.drift_rows);
    $("drift").hidden = !reports.length;
    if (!reports.length) return;
    const limit = columns > reports.length ? ` It covers the first ${reports.length} columns with a profile, of ${columns}.` : "";
    $("drift-note").textContent = `PSI, the population stability index, is the distance between two distributions: below ${WARN} they are alike, above ${CHANGED} they differ.${limit}`;
    legend("drift", reports);
    replace($("features"), reports.map(({ name }) => name).join("\n"), () => reports.map(({ name }) => this.row(name)));
    for (const report of reports) this.update(report, stats.drift_rows);
  },

  row(name) {
    const parts = { mini: element("span"), psi: element("span"), verdict: element("span", { class: "verdict" }), bins: element("div") };
    this.rows.set(name, parts);
    return element("li", {}, element("details", {},
      element("summary", {}, element("span", { class: "name" }, name), parts.mini, parts.psi, parts.verdict), parts.bins));
  },

  update(report, minimum) {
    const { mini, psi, verdict: label, bins } = this.rows.get(report.name);
    const found = verdict(report, minimum), key = JSON.stringify(report);
    replace(mini, key, () => [miniature(report)]);
    replace(psi, key, () => [meter(found)]);
    replace(bins, key, () => [comparison(report)]);
    label.className = `verdict ${found.level}`;
    label.textContent = found.text;
  },

  showPredictions(report, minimum) {
    $("predictions").hidden = !report;
    if (!report) return;
    legend("predictions", [report]);
    const found = verdict(report, minimum);
    replace($("predicted"), JSON.stringify(report), () => [
      report.rows ? comparison(report) : element("p", { class: "empty" }, "No predictions yet."),
      element("p", { class: `verdict ${found.level}` }, sentence(found.text)),
    ]);
  },
};

const legend = (section, reports) => {
  const windows = [...new Set(reports.map((report) => WINDOWS[windowOf(report)]))].join(", or ");
  const known = reports.some((report) => report.training.some((share) => share > 0));
  replace($(section).querySelector(".key-of"), `${windows}${known}`, () => [
    ...(known ? [element("span", { class: "swatch before" }), "at training"] : []),
    element("span", { class: "swatch" }), windows,
  ]);
};

const SCORES = { accuracy: "Accuracy", precision: "Precision", recall: "Recall", f1: "F1", mae: "Mean absolute error", rmse: "Root mean squared error" };

const scores = {
  training: {},

  /** Shows a column for the training metrics and one for each version with labels. */
  show(stats) {
    const own = stats.feedback.filter(({ revision }) => revision === stats.revision);
    const columns = [...own, ...stats.feedback.filter((version) => !own.includes(version))];
    const names = Object.keys(SCORES).filter((name) => name in this.training || columns.some((column) => name in column.scores));
    $("quality").hidden = !names.length && !columns.length;
    replace($("scores"), JSON.stringify([columns, names]), () => [
      ...(names.length ? [this.table(names, columns)] : []),
      element("p", { class: "hint" }, columns.length
        ? "Over the labels posted to this replica."
        : "No labels yet. Give feedback below a response, or post labels with their prediction ids."),
    ]);
  },

  table(names, columns) {
    const { rows, of } = this.training;
    const head = (title, note) => element("th", { scope: "col" }, title, element("br"), element("span", { class: "hint" }, note));
    return element("div", { class: "scroll" }, element("table", {},
      element("tr", {}, element("th", { scope: "col" }, element("span", { class: "hint" }, of ? (answer.classes.includes(of) ? `for ${of}` : of) : "")),
        ...(rows === undefined ? [] : [head("at training", plural(rows, "row"))]),
        ...columns.map((column) => head(`${column.version}, live`, plural(column.labels, "label")))),
      ...names.map((name) => element("tr", {}, element("th", { scope: "row" }, SCORES[name]),
        ...(rows === undefined ? [] : [element("td", {}, number(this.training[name] ?? NaN, 3))]),
        ...columns.map(({ scores: found, labels }) => element("td", { id: `live-${name}` }, number(found[name] ?? NaN, 3),
          ...(name === "accuracy" ? [element("span", { class: "hint" }, `, 95 % interval ${interval(found.accuracy, labels)}`)] : [])))))));
  },
};

/** Returns the 95 % confidence interval of a `share` that was observed in `many` (Wilson). */
const interval = (share, many) => {
  const z = 1.96, middle = share + (z * z) / (2 * many);
  const around = z * Math.sqrt((share * (1 - share)) / many + (z * z) / (4 * many * many)), scale = 1 + (z * z) / many;
  return [middle - around, middle + around].map((bound) => number(bound / scale, 2)).join(" to ");
};
