// The response to one request, and the feedback of the user.

const MAX_BARS = 20; // for the classes

const answer = {
  classes: [],

  show({ text, seconds, headers }) {
    const { outputs } = JSON.parse(text);
    const byName = Object.fromEntries(outputs.map((output) => [output.name, output]));
    const { predict, predict_proba: probabilities, contributions } = byName;
    const others = outputs.filter((output) => ![predict, probabilities, contributions].includes(output));
    const predicted = predict?.data.length === 1 ? predict.data[0] : undefined;
    $("answer").classList.remove("stale");
    $("answer").replaceChildren(
      ...(predict ? [element("p", { class: "predicted" }, joined(predict.data))] : []),
      ...(probabilities ? [this.probabilityBars(probabilities.data, predicted)] : []),
      ...(contributions ? this.contributionBars(contributions, predicted) : []),
      ...others.flatMap(({ name, shape, data }) => [
        element("h3", {}, name),
        element("p", { class: "hint" }, `shape [${shape.join(", ")}]`),
        element("pre", { tabindex: "0", "aria-label": name }, joined(data)),
      ]),
      this.facts(seconds, headers),
    );
    this.showFeedback(headers.get("x-mlmodel-prediction-id"), predicted);
  },

  probabilityBars(data, predicted) {
    const rows = data.map((share, place) => ({ share, name: this.classes[place] ?? `class ${place}` }));
    if (rows.length > 2) rows.sort((one, other) => other.share - one.share);
    const made = element("div", { class: "bars" });
    for (const { share, name } of rows.slice(0, MAX_BARS)) {
      const chosen = name === String(predicted) ? "name chosen" : "name";
      made.append(
        element("span", { class: chosen }, name),
        element("span", { class: "track", "aria-hidden": "true" }, bar(share)),
        element("span", { class: "value" }, percent(share)),
      );
    }
    if (rows.length > MAX_BARS) made.append(element("span", { class: "hint" }, `and ${rows.length - MAX_BARS} more`));
    return made;
  },

  /** Returns the eight largest contributions of features, in the unit of the raw score. */
  contributionBars({ shape, data }, predicted) {
    const width = shape.at(-1);
    const score = shape.length > 2 ? this.classes.indexOf(String(predicted)) : 0;
    if (shape[0] !== 1 || score < 0 || width !== form.fields.length + 1) return [];
    const parts = data.slice(score * width, (score + 1) * width - 1).map((part, place) => ({ part, name: form.fields[place].name }));
    parts.sort((one, other) => Math.abs(other.part) - Math.abs(one.part));
    const most = Math.abs(parts[0].part) || 1;
    const made = element("div", { class: "bars" }, element("h3", {}, "Contributions of the features"));
    for (const { part, name } of parts.slice(0, 8)) {
      const half = Math.abs(part) / most / 2;
      made.append(
        element("span", { class: "name" }, name),
        element("span", { class: "track signed", "aria-hidden": "true" },
          part < 0 ? bar(half, { class: "less" }, 0.5 - half) : bar(half, {}, 0.5)),
        element("span", { class: "value" }, `${part < 0 ? "−" : part > 0 ? "+" : ""}${number(Math.abs(part), 3)}`),
      );
    }
    return [made];
  },

  facts(seconds, headers) {
    const id = headers.get("x-mlmodel-prediction-id");
    const fallback = headers.get("x-mlmodel-fallback") ? ", after the candidate failed" : "";
    return element("dl", { class: "facts" },
      element("div", {}, element("dt", {}, "time"), element("dd", { id: "took" }, `${duration(seconds)}, with the network`)),
      element("div", {}, element("dt", {}, "answered by version"), element("dd", {}, `${headers.get("x-mlmodel-version")}${fallback}`)),
      ...(id ? [element("div", {}, element("dt", {}, "prediction id"), element("dd", {}, element("code", { id: "prediction" }, id)))] : []),
    );
  },

  /** Shows the form for feedback, if the response has a prediction id. */
  showFeedback(id, predicted) {
    const target = $("feedback");
    target.hidden = !id || predicted === undefined;
    if (target.hidden) return;
    const error = element("p", { role: "status", class: "hint" });
    const send = async (label) => {
      try {
        const { duplicates } = await requestJson(modelPath("feedback"), JSON.stringify({ prediction_id: id, label }));
        target.replaceChildren(element("p", { role: "status", class: "thanks" }, duplicates ? "This prediction was counted before." : "Counted. Thank you!"));
        live.now();
      } catch (failure) {
        error.textContent = failure.message;
      }
    };
    target.onsubmit = (event) => event.preventDefault();
    target.replaceChildren(...(this.classes.length ? this.ofClass(predicted, send) : this.ofNumber(target, send)), error);
  },

  ofClass(predicted, send) {
    const others = this.classes.filter((name) => name !== String(predicted));
    const choice = element("select", { id: "actual", "aria-label": "Actual class" }, ...others.map((name) => element("option", {}, name)));
    return [
      element("h3", {}, "Was the prediction right?"),
      element("div", { class: "row" },
        element("button", { type: "button", id: "right", onclick: () => send(predicted) }, `Yes, ${predicted}`),
        element("button", { type: "button", id: "wrong", onclick: () => send(choice.value) }, "No, it was"),
        choice),
    ];
  },

  ofNumber(target, send) {
    const field = element("input", { id: "actual", inputmode: "decimal", autocomplete: "off" });
    target.onsubmit = (event) => {
      event.preventDefault();
      send(JSON_NUMBER.test(field.value.trim()) ? Number(field.value) : field.value);
    };
    return [
      element("h3", {}, element("label", { for: "actual" }, "Actual value")),
      element("div", { class: "row" }, field, element("button", { id: "right" }, "Send")),
    ];
  },
};

const joined = (data) => data.slice(0, 200).map((value) => (typeof value === "number" ? number(value, 7) : String(value))).join(", ")
  + (data.length > 200 ? ` … (${count(data.length)} values)` : "");
