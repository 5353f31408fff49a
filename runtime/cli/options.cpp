#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "cli.h"

namespace clip_edge::cli {
namespace {

struct Verb {
  const char *name, *summary, *usage;
};

constexpr Verb kVerbs[] = {
    {"info", "what a bundle is: model, embedding space, precisions", "BUNDLE"},
    {"verify", "does it still give its reference embeddings, on this machine?", "BUNDLE"},
    {"embed", "the vectors of pictures and sentences", "BUNDLE --image F... --text T..."},
    {"classify", "how much a picture is of each label", "BUNDLE --image F... --label L..."},
    {"index", "store the vectors of pictures and sentences in a file to search in", "BUNDLE --image F... --out FILE"},
    {"search", "the stored vectors nearest to a sentence or picture", "INDEX BUNDLE --text T..."},
    {"outline", "what a box or points mark in a picture, as a mask", "BUNDLE --image F --point X,Y --out FILE"},
    {"build", "the TensorRT engines of a bundle, for the GPU of this machine", "BUNDLE --backend tensorrt"},
    {"bench", "latency of both towers, one picture or sentence at a time", "BUNDLE"},
};

struct Option {
  const char *name, *value, *verbs, *help;  // a name in capitals and `...`: any number of values
};

constexpr const char *kRuns = "verify embed classify index search outline bench build";

constexpr Option kOptions[] = {
    {"--image", "F...", "embed classify index search outline bench",
     "pictures: JPEG, PNG, binary PPM (P6) or PAM (P7) files"},
    {"--decode", "MODE", "embed classify index search outline bench",
     "of large JPEGs: fast, at 1/2, 1/4 or 1/8 (default), or exact"},
    {"--text", "T...", "embed index search bench", "sentences"},
    {"--label", "L...", "classify", "what the picture may show"},
    {"--template", "T...", "classify", "sentences with {} for the label (default: a photo of {})"},
    {"--box", "L,T,R,B", "outline", "around the thing, in pixels of the upright picture"},
    {"--point", "X,Y...", "outline", "on the thing"},
    {"--beside", "X,Y...", "outline", "on what is no part of it"},
    {"--out", "FILE", "index outline", "the file to write; of outline a PGM (P5), 255 inside"},
    {"--top", "N", "search", "the nearest so many (default: 5)"},
    {"--budget", "S", "bench", "measure each tower for about this many seconds (default: 5)"},
    {"--backend", "B", "info verify embed classify index search outline bench build",
     "onnxruntime (default), tensorrt, tensorrt-rtx, or coreml on Apple's systems"},
    {"--precision", "P", kRuns,
     "such as fp32 or int8 (default: the bundle's first; verify and build: all)"},
    {"--threads", "N", "verify embed classify index search outline bench", "of the engine (default: it decides)"},
    {"--onnxruntime", "FILE", "verify embed classify index search outline bench",
     "libonnxruntime (default: $ONNXRUNTIME_LIBRARY, then the system's)"},
    {"--device", "N", kRuns, "number of the GPU (default: 0)"},
    {"--engines", "FOLDER", kRuns,
     "of engines built here (default: $CLIP_EDGE_ENGINES, then the user's cache)"},
    {"--plugin", "FILE", kRuns,
     "libclip_edge_tensorrt or libclip_edge_tensorrt_rtx (default: beside libclip_edge)"},
    {"--libraries", "FOLDER", kRuns,
     "of libnvinfer or libtensorrt_rtx (default: the system's)"},
    {"--compute-capability", "SM", "build", "for GPUs that are not here, such as sm89 (tensorrt-rtx only)"},
    {"--workspace", "MIB", "build", "memory that the builder may try kernels with"},
    {"--json", "FILE", "info verify embed classify index search outline bench build",
     "write one JSON object; -: to stdout, and nothing else there"},
};

bool has_word(const std::string &words, const std::string &word) {
  return (" " + words + " ").find(" " + word + " ") != std::string::npos;
}

[[noreturn]] void refuse(const std::string &what, const std::string &verb) {
  const std::string command = verb.empty() ? "clip-edge-cli" : "clip-edge-cli " + verb;
  throw Failure{kUsage, "UsageError", what, "", "see `" + command + " --help`"};
}

double number(const std::string &name, const std::string &text, double least, double greatest, const Options &options) {
  char *end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= least && value <= greatest))
    refuse(format("%s must be a number from %g to %g; found `%s`", name.c_str(), least, greatest, text.c_str()),
           options.verb);
  return value;
}

int whole(const std::string &name, const std::string &text, int greatest, const Options &options, int least = 1) {
  const double value = number(name, text, least, greatest, options);
  if (value != static_cast<int>(value)) refuse(name + " must be whole; found `" + text + "`", options.verb);
  return static_cast<int>(value);
}

clip_edge_decoding decoding(const std::string &text, const Options &options) {
  if (text != "fast" && text != "exact") refuse("--decode must be fast or exact; found `" + text + "`", options.verb);
  return text == "fast" ? CLIP_EDGE_DECODE_FAST : CLIP_EDGE_DECODE_EXACT;
}

// `count` numbers with commas between them, appended to `values`.
void take_numbers(const std::string &name, const std::string &text, size_t count, std::vector<float> &values,
                  const Options &options) {
  std::istringstream stream(text);
  size_t found = 0;
  for (std::string part; std::getline(stream, part, ','); found++)
    values.push_back(static_cast<float>(number(name, part, 0, 65535, options)));
  if (found != count)
    refuse(format("%s takes %zu numbers with commas; found `%s`", name.c_str(), count, text.c_str()), options.verb);
}

void set(Options &options, const std::string &name, const std::string &value) {
  if (name == "--image")
    options.images.push_back(value);
  else if (name == "--text")
    options.texts.push_back(value);
  else if (name == "--label")
    options.labels.push_back(value);
  else if (name == "--template")
    options.templates.push_back(value);
  else if (name == "--precision")
    options.precision = value;
  else if (name == "--onnxruntime")
    options.onnxruntime = value;
  else if (name == "--json")
    options.json = value;
  else if (name == "--backend")
    options.backend = value;
  else if (name == "--engines")
    options.engines = value;
  else if (name == "--plugin")
    options.plugin = value;
  else if (name == "--libraries")
    options.libraries = value;
  else if (name == "--compute-capability")
    options.capability = value;
  else if (name == "--device")
    options.device = whole(name, value, 1023, options, 0);
  else if (name == "--workspace")
    options.workspace_mib = whole(name, value, 1 << 20, options);
  else if (name == "--out")
    options.out = value;
  else if (name == "--decode")
    options.decoding = decoding(value, options);
  else if (name == "--budget")
    options.budget_s = number(name, value, 0.1, 3600, options);
  else if (name == "--threads")
    options.threads = whole(name, value, 1024, options);
  else if (name == "--box")
    take_numbers(name, value, 4, options.box, options);
  else if (name == "--point")
    take_numbers(name, value, 2, options.points, options);
  else if (name == "--beside")
    take_numbers(name, value, 2, options.beside, options);
  else if (name == "--top")
    options.top = whole(name, value, 1000000, options);
}

const Option &find_option(const std::string &name, const std::string &verb) {
  for (const Option &option : kOptions)
    if (name == option.name && has_word(option.verbs, verb)) return option;
  refuse("unknown option: `" + name + "`", verb);
}

bool is_option(const std::string &word) { return word.size() > 2 && word.compare(0, 2, "--") == 0; }

// `words[at]` is an option; returns the index of the first word behind its values.
size_t take_option(const std::vector<std::string> &words, size_t at, Options &options) {
  const size_t equals = words[at].find('=');
  const std::string name = words[at].substr(0, equals);
  const Option &option = find_option(name, options.verb);
  if (equals != std::string::npos) {
    set(options, name, words[at].substr(equals + 1));
    return at + 1;
  }
  const bool many = std::string(option.value).find("...") != std::string::npos;
  const size_t first = ++at;
  while (at < words.size() && !is_option(words[at]) && (many || at == first)) set(options, name, words[at++]);
  if (at == first) refuse(name + " needs a value", options.verb);
  return at;
}

void check_verb(const Options &options) {
  const auto same = [&](const Verb &verb) { return options.verb == verb.name; };
  if (std::none_of(std::begin(kVerbs), std::end(kVerbs), same)) refuse("unknown verb: `" + options.verb + "`", "");
}

void check_complete(const Options &options) {
  if (options.verb == "search" && options.index.empty())
    refuse("an INDEX is missing: a file made by `clip-edge-cli index`", options.verb);
  if (options.bundle.empty()) refuse("a BUNDLE is missing: a folder made by `clip-edge export`", options.verb);
  if (has_word("embed index search", options.verb) && options.images.empty() && options.texts.empty())
    refuse(std::string("nothing to ") + (options.verb == "search" ? "search for" : "embed") +
               ": --image or --text is missing",
           options.verb);
  if (has_word("index outline", options.verb) && options.out.empty()) refuse("--out is missing", options.verb);
  if (options.verb == "outline" && options.images.size() != 1) refuse("one --image expected", options.verb);
  if (options.verb == "outline" && (options.box.size() > 4 || (options.box.empty() && options.points.empty())))
    refuse("one --box, or --point, expected", options.verb);
  if (options.verb == "classify" && options.images.empty()) refuse("--image is missing", options.verb);
  if (options.verb == "classify" && options.labels.empty()) refuse("--label is missing", options.verb);
}

}  // namespace

void parse(int argc, char **argv, Options &options) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const auto asked = [&](const char *name) { return std::find(words.begin(), words.end(), name) != words.end(); };
  options.help = words.empty() || asked("--help") || asked("-h");
  options.version = asked("--version");
  if (!words.empty() && words[0][0] != '-') options.verb = words[0];
  if (options.version || (options.help && options.verb.empty())) return;
  if (options.verb.empty()) refuse("a verb must come first; found `" + words[0] + "`", "");
  check_verb(options);
  if (options.help) return;
  for (size_t at = 1; at < words.size();) {
    if (is_option(words[at])) {
      at = take_option(words, at, options);
    } else if (options.verb == "search" && options.index.empty()) {
      options.index = words[at++];
    } else {
      if (!options.bundle.empty()) refuse("one BUNDLE expected; found another: `" + words[at] + "`", options.verb);
      options.bundle = words[at++];
    }
  }
  check_complete(options);
}

std::string help(const std::string &verb) {
  std::string text;
  if (verb.empty()) text = "usage: clip-edge-cli VERB BUNDLE [options]\n\n";
  for (const Verb &row : kVerbs) {
    if (verb.empty()) text += format("  %-10s %s\n", row.name, row.summary);
    if (verb == row.name)
      text = format("usage: clip-edge-cli %s %s [options]\n\n%s\n\n", row.name, row.usage, row.summary);
  }
  if (verb.empty())
    return text + "\nclip-edge-cli VERB --help shows its options. Exit codes: 0 done, 1 no, 2 usage, 3 unavailable.\n";
  for (const Option &option : kOptions)
    if (has_word(option.verbs, verb))
      text += format("  %-20s %s\n", (std::string(option.name) + " " + option.value).c_str(), option.help);
  return text;
}

std::string format(const char *pattern, ...) {
  va_list arguments, again;
  va_start(arguments, pattern);
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, pattern, arguments);
  va_end(arguments);
  std::string text(static_cast<size_t>(std::max(length, 0)) + 1, '\0');
  std::vsnprintf(&text[0], text.size(), pattern, again);
  va_end(again);
  text.pop_back();
  return text;
}

}  // namespace clip_edge::cli
