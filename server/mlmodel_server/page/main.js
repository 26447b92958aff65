// The start: loads the description of the model, and connects the form.

const start = async () => {
  try {
    const { models: [name] } = await requestJson("v1/models");
    server.name = name;
    const [metadata, example, profile] = await Promise.all(["", "example", "profile"].map((part) => requestJson(modelPath(part))));
    $("key").hidden = true;
    introduce(metadata);
    form.make(metadata, example, profile);
    $("try").hidden = false;
    setText($("trouble"), "");
    const columns = form.inputs.reduce((sum, { data }) => sum + data.length, 0);
    live.start(columns);
  } catch (error) {
    if (error.status === undefined) throw error;
    if (error.status !== 401) {
      setText($("trouble"), error.message);
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
  setText($("version"), versions[0]);
  $("metadata").href = modelPath("");
  const named = outputs.map((output) => output.name);
  const { classes } = answer;
  $("what").textContent = classes.length
    ? `Predicts one of ${classes.length} classes: ${classes.slice(0, 12).join(", ")}${classes.length > 12 ? ", …" : ""}.`
    : named.includes("predict") ? `Predicts ${outputs[0].datatype === "BYTES" ? "a text" : "a number"}.` : `Returns ${named.join(", ")}.`;
  const facts = [
    ["platform", platform],
    ["scores at training", Object.entries(SCORES).filter(([key]) => key in metrics).map(([key, word]) => `${word.toLowerCase()} ${number(metrics[key], 3)}`).join(", ")
      + (metrics.rows ? ` on ${plural(metrics.rows, "row")}` : "")],
    ["compilation", properties.compiled],
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
    answer.show(await request(modelPath("infer"), form.body()));
    $("answer").scrollIntoView({ block: "nearest" });
    live.now();
  } catch (error) {
    const failed = error instanceof ServerError;
    if (failed && error.status === 0) setText($("error"), error.message);
    else if (failed && error.status >= 500) setText($("error"), `The server could not answer: ${error.message}.`);
    else if (error.status !== 401) form.showError(error.message, failed ? "The server rejected the request: " : "");
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

$("reset").addEventListener("click", () => {
  setText($("error"), "");
  for (const field of form.fields) field.reset();
  form.show();
});

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const source = $(button.dataset.of);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch { // the clipboard API requires HTTPS: copy the selection instead
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

// A link cannot send a key: with a key, its target is fetched and shown here.
for (const link of document.querySelectorAll("footer a")) {
  link.addEventListener("click", async (event) => {
    if (!server.key) return;
    event.preventDefault();
    try {
      const { text } = await request(link.getAttribute("href"));
      const content = link.id === "docs"
        ? [new DOMParser().parseFromString(text, "text/html").querySelector("main")]
        : [element("pre", { tabindex: "0" }, JSON.stringify(JSON.parse(text), null, 2))];
      $("reference-text").replaceChildren(...content);
      $("reference").showModal();
    } catch (error) {
      setText($("trouble"), error.message);
    }
  });
}

start();
