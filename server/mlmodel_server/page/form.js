// The form for one request, made from the example of the model. It is sent as typed.

const MAX_FIELDS = 50; // more values share one text area
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/** A field for one value. `text()` returns it as JSON; an invalid number is sent as text, and the server rejects it. */
class Field {
  constructor(input, name, value, profile, column, id) {
    this.input = input;
    this.name = name;
    this.kind = input.datatype === "BYTES" ? "text" : input.datatype === "BOOL" ? "flag" : "number";
    this.example = value;
    this.column = column ?? {};
    this.profile = profile ?? {};
    this.control = element("input", { id, autocomplete: "off", spellcheck: "false", "aria-describedby": `${id}-hint ${id}-wrong` });
    this.hint = element("p", { id: `${id}-hint`, class: "hint" });
    this.error = element("p", { id: `${id}-wrong`, class: "wrong", hidden: true });
    this.element = element("div", { class: "field" }, ...this.parts(id), this.hint, this.error);
    this.reset();
  }

  parts(id) {
    if (this.kind === "flag") {
      this.control.type = "checkbox";
      return [element("label", { class: "check" }, this.control, this.name)];
    }
    if (this.kind === "number") this.control.inputMode = "decimal";
    const known = Object.keys(this.profile.values ?? {});
    const label = element("label", { for: id }, this.name);
    if (!known.length) return [label, this.control];
    this.control.setAttribute("list", `${id}-known`);
    return [label, this.control, element("datalist", { id: `${id}-known` }, ...known.map((value) => element("option", { value })))];
  }

  reset() {
    if (this.kind === "flag") this.control.checked = this.example;
    else this.control.value = String(this.example ?? "");
    this.clear();
    this.compare();
  }

  clear() {
    this.control.removeAttribute("aria-invalid");
    setText(this.error, "");
  }

  showError(message) {
    this.control.setAttribute("aria-invalid", "true");
    setText(this.error, message);
  }

  get value() {
    return this.control.value.trim();
  }

  /** Whether the field is empty and stands for a missing value. An empty text is a text, unless it must be a date. */
  get isMissing() {
    return this.value === "" && (this.kind === "number" || this.column.format || this.example === null) && Boolean(this.column.missing);
  }

  get isInvalid() {
    return this.kind === "number" && !this.isMissing && !JSON_NUMBER.test(this.value);
  }

  text() {
    if (this.kind === "flag") return String(this.control.checked);
    if (this.isMissing) return "null";
    return this.kind === "text" || this.isInvalid ? JSON.stringify(this.kind === "text" ? this.control.value : this.value) : this.value;
  }

  /** Shows the range of the training data, and whether the value is outside. */
  compare() {
    const { min, max, values, others } = this.profile;
    let hint = this.column.format ?? "", outside = false;
    if (this.kind === "number" && min !== undefined) {
      outside = !this.isInvalid && !this.isMissing && (Number(this.value) < min || Number(this.value) > max);
      hint = outside ? `outside the training data: ${number(min)} to ${number(max)}` : `${number(min)} to ${number(max)}`;
    } else if (this.kind === "text" && values) {
      outside = !others && !Object.hasOwn(values, this.control.value);
      hint = outside ? `not in the training data, which had ${Object.keys(values).slice(0, 3).join(", ")}${Object.keys(values).length > 3 ? ", …" : ""}` : "";
    }
    this.hint.textContent = hint;
    this.hint.classList.toggle("outside", outside);
  }
}

/** One text area for a wide row: numbers in any list syntax, or an object by input name. */
class Wide {
  constructor(inputs, id) {
    this.inputs = inputs;
    const only = inputs.length === 1 ? inputs[0] : null;
    this.single = only;
    this.example = only
      ? only.data.map((value) => JSON.stringify(value)).join(", ")
      : JSON.stringify(Object.fromEntries(inputs.map(({ name, data }) => [name, data.length === 1 ? data[0] : data])), null, 1);
    this.control = element("textarea", { id, spellcheck: "false", "aria-describedby": `${id}-wrong` });
    this.error = element("p", { id: `${id}-wrong`, class: "wrong", hidden: true });
    const label = only ? `${only.name}: ${count(only.data.length)} values, separated by commas or spaces` : "Values by input, as JSON";
    this.element = element("div", { class: "field wide" }, element("label", { for: id }, label), this.control, this.error);
    this.reset();
  }

  reset() {
    this.control.value = this.example;
    this.clear();
  }

  clear() {
    this.control.removeAttribute("aria-invalid");
    setText(this.error, "");
  }

  showError(message) {
    this.control.setAttribute("aria-invalid", "true");
    setText(this.error, message);
  }

  compare() {}

  /** Returns the values of each input as JSON; throws an Error that names what is wrong with the text. */
  texts() {
    const typed = this.control.value.trim();
    if (this.single && this.single.datatype !== "BYTES")
      return [typed.replace(/[[\]]/g, " ").split(/[\s,;]+/).filter(Boolean).map((word) =>
        JSON_NUMBER.test(word) || word === "true" || word === "false" ? word : JSON.stringify(word))];
    let read;
    try {
      read = JSON.parse(this.single ? `[${typed.replace(/^\[|\]$/g, "")}]` : typed);
    } catch (error) {
      throw new Error(`This is not JSON: ${error.message}`);
    }
    if (this.single) return [read.map((value) => JSON.stringify(value))];
    return this.inputs.map(({ name }) => {
      if (!Object.hasOwn(read ?? {}, name)) throw new Error(`“${name}” is missing.`);
      return [read[name]].flat(Infinity).map((value) => JSON.stringify(value));
    });
  }
}

const form = {
  inputs: [],
  fields: [],
  outputs: [],

  /** Creates the fields from the metadata of the model, its example and its training profile. */
  make(metadata, example, profile) {
    this.inputs = example.inputs.map((input) => ({ ...input, data: [input.data].flat(Infinity).map((value) => shortest(value, input.datatype)) }));
    const columns = JSON.parse(metadata.properties?.columns ?? "{}");
    const named = metadata.outputs.map(({ name }) => name);
    this.outputs = named.includes("predict") ? named.filter((name) => ["predict", "predict_proba", "contributions"].includes(name)) : [];
    const values = this.inputs.reduce((sum, { data }) => sum + data.length, 0);
    this.fields = values > MAX_FIELDS
      ? [new Wide(this.inputs, "wide")]
      : this.inputs.flatMap((input, place) => input.data.map((value, index) => {
          const plain = input.data.length === 1 && (input.shape.length === 1 || !Object.hasOwn(profile, `${input.name}[0]`));
          const name = plain ? input.name : `${input.name}[${index}]`;
          return new Field(input, name, value, profile[name], columns[input.name], `field-${place}-${index}`);
        }));
    $("fields").replaceChildren(...this.fields.map((field) => field.element));
    const known = Object.keys(profile).length > 0;
    setText($("form-note"), known ? "The form has a real row from the test of the model. Below a number: its range in the training data." : "");
    this.show();
  },

  /** Returns the body of the request. */
  body() {
    const wide = this.fields[0] instanceof Wide ? this.fields[0].texts() : null;
    const tensors = this.inputs.map((input, place) => {
      const texts = wide ? wide[place] : this.fields.filter((field) => field.input === input).map((field) => field.text());
      const { name, shape, datatype } = input;
      return `{"name": ${JSON.stringify(name)}, "shape": ${JSON.stringify(shape)}, "datatype": "${datatype}", "data": [${texts.join(", ")}]}`;
    });
    const outputs = this.outputs.map((name) => `{"name": ${JSON.stringify(name)}}`);
    return `{"inputs": [\n  ${tensors.join(",\n  ")}\n]${outputs.length ? `, "outputs": [${outputs.join(", ")}]` : ""}}`;
  },

  /** Shows the request as a command and as JSON. */
  show() {
    let body;
    try {
      body = this.body();
    } catch (error) {
      body = error.message;
    }
    const quoted = body.replaceAll("'", "'\\''");
    const key = server.key ? ` \\\n  -H "Authorization: Bearer $KEY"` : "";
    $("json").textContent = body;
    $("curl").textContent = `curl -s '${new URL(modelPath("infer"), document.baseURI)}'${key} \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
  },

  clear() {
    setText($("error"), "");
    for (const field of this.fields) field.clear();
  },

  /** Shows an error at the fields that it names, or at those that are not numbers, and after `prefix` above the form. */
  showError(message, prefix) {
    const named = this.fields.filter((field) => field.input && mentions(message, field.input.name));
    const wrong = named.some((field) => field.isInvalid) ? named.filter((field) => field.isInvalid) : named;
    const short = message.replace(/^input ('[^']*'|"[^"]*"): /, "");
    for (const field of wrong.length <= 8 ? wrong : []) field.showError(field.isInvalid ? `This must be a number.` : sentence(short));
    if (!wrong.length && this.fields[0] instanceof Wide) this.fields[0].showError(sentence(short));
    setText($("error"), prefix + message);
    (wrong[0] ?? this.fields[0])?.control.focus();
  },
};

/** Returns a value of the example with as few digits as its datatype needs: 5.1, not 5.099999904632568. */
const shortest = (value, datatype) =>
  datatype === "FP32" && value !== null ? [7, 8, 9].map((digits) => Number(value.toPrecision(digits))).find((short) => Math.fround(short) === Math.fround(value)) : value;

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Returns whether an error of the server quotes this input name, which it cuts when it is long. */
const mentions = (message, name) => {
  const shown = name.length > 64 ? `${name.slice(0, 61)}...` : name;
  return message.includes(`input '${shown}'`) || message.includes(`input "${shown}"`);
};
