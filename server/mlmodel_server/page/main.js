// Begins: asks what the model is, and wires the form.

const start = async () => {
  try {
    const { models: [name] } = await askJson("v1/models");
    server.name = name;
    const [metadata, example, profile] = await Promise.all(["", "example", "profile"].map((what) => askJson(ofModel(what))));
    $("key").hidden = true;
    introduce(metadata);
    form.make(metadata, example, profile);
    $("try").hidden = false;
    say($("trouble"), "");
    const columns = form.inputs.reduce((sum, { data }) => sum + data.length, 0);
    live.start(columns);
  } catch (error) {
    if (error.status === undefined) throw error;
    if (error.status !== 401) {
      say($("trouble"), error.message);
      setTimeout(start, 3000);
    }
  }
};

const introduce = ({ name, versions, platform, outputs, properties = {} }) => {
  const read = (text) => (text ? JSON.parse(text) : undefined);
  const metrics = read(properties.training_metrics) ?? {};
  answer.classes = read(properties.classes) ?? [];
  scores.training = metrics;
  document.title = `${name} ${versions[0]}`;
  $("name").textContent = name;
  say($("version"), versions[0]);
  $("metadata").href = ofModel("");
  const named = outputs.map((output) => output.name);
  const { classes } = answer;
  $("what").textContent = classes.length
    ? `Predicts one of ${classes.length} classes: ${classes.slice(0, 12).join(", ")}${classes.length > 12 ? ", …" : ""}.`
    : named.includes("predict") ? `Predicts ${outputs[0].datatype === "BYTES" ? "a text" : "a number"}.` : `Answers ${named.join(", ")}.`;
  const facts = [
    ["platform", platform],
    ["tested at training", Object.entries(SCORES).filter(([key]) => key in metrics).map(([key, word]) => `${word.toLowerCase()} ${number(metrics[key], 3)}`).join(", ")
      + (metrics.rows ? ` on ${plural(metrics.rows, "row")}` : "")],
    ["speed", properties.compiled],
  ];
  $("facts").replaceChildren(...facts.filter(([, value]) => value).map(([key, value]) => element("div", {}, element("dt", {}, key), element("dd", {}, value))));
};

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  server.key = $("key-text").value.trim();
  if (form.fields.length) {
    $("key").hidden = true;
    form.show();
    live.now();
    $("predict").focus();
  } else start();
});

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("predict").disabled = true;
  form.clear();
  try {
    const found = await ask(ofModel("infer"), form.body());
    answer.show(found);
    $("answer").scrollIntoView({ block: "nearest" });
    live.now();
  } catch (error) {
    if (error instanceof Refused && error.status >= 500) say($("refused"), `The model could not answer: ${error.message}.`);
    else if (error.status !== 401) form.tell(error.message);
    $("answer").classList.add("stale");
  }
  $("predict").disabled = false;
});

$("form").addEventListener("input", (event) => {
  const field = form.fields.find(({ control }) => control === event.target);
  field?.clear();
  field?.compare();
  form.show();
});

$("again").addEventListener("click", () => {
  say($("refused"), "");
  for (const field of form.fields) field.reset();
  form.show();
});

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const source = $(button.dataset.of);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch { // not over plain HTTP: the old way, by what is selected
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

// A link cannot carry a key: where one is needed, what it leads to is fetched and shown here.
for (const link of document.querySelectorAll("footer a")) {
  link.addEventListener("click", async (event) => {
    if (!server.key) return;
    event.preventDefault();
    try {
      const { text } = await ask(link.getAttribute("href"));
      const shown = link.id === "docs"
        ? [new DOMParser().parseFromString(text, "text/html").querySelector("main")]
        : [element("pre", { tabindex: "0" }, JSON.stringify(JSON.parse(text), null, 2))];
      $("reference-text").replaceChildren(...shown);
      $("reference").showModal();
    } catch (error) {
      say($("trouble"), error.message);
    }
  });
}

start();
