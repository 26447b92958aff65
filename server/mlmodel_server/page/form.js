// The form for one request: made from the model's example, sent as the text that stands in it.

const FIELDS = 50; // of more values than these, all go into one text area
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/** A field for one value. `text()` is what to send, as JSON; what is no number goes out as text, and the server tells. */
class Field {
  constructor(input, name, value, profile, id) {
    this.input = input;
    this.name = name;
    this.kind = input.datatype === "BYTES" ? "text" : input.datatype === "BOOL" ? "flag" : "number";
    this.example = value;
    this.profile = profile ?? {};
    this.control = element("input", { id, autocomplete: "off", spellcheck: "false", "aria-describedby": `${id}-hint ${id}-wrong` });
    this.hint = element("p", { id: `${id}-hint`, class: "hint" });
    this.wrong = element("p", { id: `${id}-wrong`, class: "wrong", hidden: true });
    this.element = element("div", { class: "field" }, ...this.parts(id), this.hint, this.wrong);
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
    else this.control.value = String(this.example);
    this.clear();
    this.compare();
  }

  clear() {
    this.control.removeAttribute("aria-invalid");
    say(this.wrong, "");
  }

  tell(message) {
    this.control.setAttribute("aria-invalid", "true");
    say(this.wrong, message);
  }

  get value() {
    return this.control.value.trim();
  }

  get misfits() {
    return this.kind === "number" && !JSON_NUMBER.test(this.value);
  }

  text() {
    if (this.kind === "flag") return String(this.control.checked);
    return this.kind === "text" || this.misfits ? JSON.stringify(this.kind === "text" ? this.control.value : this.value) : this.value;
  }

  /** Shows what the training data had, and whether this is beyond it. */
  compare() {
    const { min, max, values, others } = this.profile;
    let hint = "", outside = false;
    if (this.kind === "number" && min !== undefined) {
      outside = !this.misfits && (Number(this.value) < min || Number(this.value) > max);
      hint = outside ? `outside what it was trained on: ${number(min)} to ${number(max)}` : `${number(min)} to ${number(max)}`;
    } else if (this.kind === "text" && values) {
      outside = !others && !Object.hasOwn(values, this.control.value);
      hint = outside ? `not in the training data, which had ${Object.keys(values).slice(0, 3).join(", ")}${Object.keys(values).length > 3 ? ", …" : ""}` : "";
    }
    this.hint.textContent = hint;
    this.hint.classList.toggle("outside", outside);
  }
}

/** One text area for a wide row: numbers in any spelling of a list, or an object by input name. */
class Wide {
  constructor(inputs, id) {
    this.inputs = inputs;
    const only = inputs.length === 1 ? inputs[0] : null;
    this.single = only;
    this.example = only
      ? only.data.map((value) => JSON.stringify(value)).join(", ")
      : JSON.stringify(Object.fromEntries(inputs.map(({ name, data }) => [name, data.length === 1 ? data[0] : data])), null, 1);
    this.control = element("textarea", { id, spellcheck: "false", "aria-describedby": `${id}-wrong` });
    this.wrong = element("p", { id: `${id}-wrong`, class: "wrong", hidden: true });
    const label = only ? `${only.name}: ${count(only.data.length)} values, with commas or spaces between them` : "Values by input, as JSON";
    this.element = element("div", { class: "field wide" }, element("label", { for: id }, label), this.control, this.wrong);
    this.reset();
  }

  reset() {
    this.control.value = this.example;
    this.clear();
  }

  clear() {
    this.control.removeAttribute("aria-invalid");
    say(this.wrong, "");
  }

  tell(message) {
    this.control.setAttribute("aria-invalid", "true");
    say(this.wrong, message);
  }

  compare() {}

  /** The values of each input as JSON; throws an Error that says what is wrong with the text. */
  texts() {
    const written = this.control.value.trim();
    if (this.single && this.single.datatype !== "BYTES")
      return [written.replace(/[[\]]/g, " ").split(/[\s,;]+/).filter(Boolean).map((word) =>
        JSON_NUMBER.test(word) || word === "true" || word === "false" ? word : JSON.stringify(word))];
    let read;
    try {
      read = JSON.parse(this.single ? `[${written.replace(/^\[|\]$/g, "")}]` : written);
    } catch (error) {
      throw new Error(`This is not JSON: ${error.message}`);
    }
    if (this.single) return [read.map((value) => JSON.stringify(value))];
    return this.inputs.map(({ name }) => {
      if (!Object.hasOwn(read ?? {}, name)) throw new Error(`There is no “${name}”.`);
      return [read[name]].flat(Infinity).map((value) => JSON.stringify(value));
    });
  }
}

const form = {
  inputs: [],
  fields: [],
  outputs: [],

  /** Makes the fields from the model's metadata, its example and its training profile. */
  make(metadata, example, profile) {
    this.inputs = example.inputs.map((input) => ({ ...input, data: [input.data].flat(Infinity).map((value) => written(value, input.datatype)) }));
    const named = metadata.outputs.map(({ name }) => name);
    this.outputs = named.includes("predict") ? named.filter((name) => ["predict", "predict_proba", "contributions"].includes(name)) : [];
    const values = this.inputs.reduce((sum, { data }) => sum + data.length, 0);
    this.fields = values > FIELDS
      ? [new Wide(this.inputs, "wide")]
      : this.inputs.flatMap((input, place) => input.data.map((value, index) => {
          const plain = input.data.length === 1 && (input.shape.length === 1 || !Object.hasOwn(profile, `${input.name}[0]`));
          const name = plain ? input.name : `${input.name}[${index}]`;
          return new Field(input, name, value, profile[name], `field-${place}-${index}`);
        }));
    $("fields").replaceChildren(...this.fields.map((field) => field.element));
    const known = Object.keys(profile).length > 0;
    say($("form-note"), known ? "Filled in is a real row that the model was tested with. Below a number: its range in the training data." : "");
    this.show();
  },

  /** The body of the request. */
  body() {
    const wide = this.fields[0] instanceof Wide ? this.fields[0].texts() : null;
    const tensors = this.inputs.map((input, place) => {
      const texts = wide ? wide[place] : this.fields.filter((field) => field.input === input).map((field) => field.text());
      const { name, shape, datatype } = input;
      return `{"name": ${JSON.stringify(name)}, "shape": ${JSON.stringify(shape)}, "datatype": "${datatype}", "data": [${texts.join(", ")}]}`;
    });
    const wanted = this.outputs.map((name) => `{"name": ${JSON.stringify(name)}}`);
    return `{"inputs": [\n  ${tensors.join(",\n  ")}\n]${wanted.length ? `, "outputs": [${wanted.join(", ")}]` : ""}}`;
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
    $("curl").textContent = `curl -s '${new URL(ofModel("infer"), document.baseURI)}'${key} \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
  },

  clear() {
    say($("refused"), "");
    for (const field of this.fields) field.clear();
  },

  /** Tells what is wrong, at the fields that the server names, or else that cannot be right. */
  tell(message) {
    const named = this.fields.filter((field) => field.input && mentions(message, field.input.name));
    const wrong = named.some((field) => field.misfits) ? named.filter((field) => field.misfits) : named;
    const short = message.replace(/^input ('[^']*'|"[^"]*"): /, "");
    for (const field of wrong.length <= 8 ? wrong : []) field.tell(field.misfits ? `This must be a number.` : sentence(short));
    if (!wrong.length && this.fields[0] instanceof Wide) this.fields[0].tell(sentence(short));
    say($("refused"), `The server refused this: ${message}`);
    (wrong[0] ?? this.fields[0])?.control.focus();
  },
};

/** An example's value in as few digits as mean the same to the model: 5.1 rather than 5.099999904632568. */
const written = (value, datatype) =>
  datatype === "FP32" ? [7, 8, 9].map((digits) => Number(value.toPrecision(digits))).find((short) => Math.fround(short) === Math.fround(value)) : value;

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Whether an error of the server is about the input of this name, which it quotes, and cuts when it is long. */
const mentions = (message, name) => {
  const shown = name.length > 64 ? `${name.slice(0, 61)}...` : name;
  return message.includes(`input '${shown}'`) || message.includes(`input "${shown}"`);
};
