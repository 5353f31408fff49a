// clip-edge-cli: bundles on devices without Python. Results go to stdout, talk to stderr; exit codes: docs/errors.md.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <set>

#include "cli.h"

using namespace clip_edge::cli;

namespace {

// Each text once: builders of engines say the same for every layer.
void talk(clip_edge_log_level level, const char *text, void *) {
  static auto *told = new std::set<std::string>;  // never destroyed: an engine may speak at exit
  bool is_new = true;
  try {
    is_new = told->insert(text).second;
  } catch (const std::bad_alloc &) {  // said twice rather than never
  }
  if (level != CLIP_EDGE_LOG_INFO && is_new) std::fprintf(stderr, "warning: %s\n", text);
}

Outcome run(const Options &options) {
  if (options.verb == "info") return run_info(options);
  if (options.verb == "verify") return run_verify(options);
  if (options.verb == "embed") return run_embed(options);
  if (options.verb == "classify") return run_classify(options);
  if (options.verb == "index") return run_index(options);
  if (options.verb == "search") return run_search(options);
  if (options.verb == "outline") return run_outline(options);
  if (options.verb == "build") return run_build(options);
  return run_bench(options);
}

[[noreturn]] void cannot_write(const std::string &path) {
  throw Failure{kUnavailable, "UnavailableError", std::string("cannot write: ") + std::strerror(errno), path,
                "choose another place"};
}

void print(const std::string &text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    cannot_write("stdout");
}

}  // namespace

void clip_edge::cli::write_file(const std::string &path, const std::string &text) {
  const std::string partial = path + ".partial-" + std::to_string(getpid());
  FILE *file = std::fopen(partial.c_str(), "wb");
  if (file == nullptr) cannot_write(path);
  const bool whole = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) != 0 || !whole || std::rename(partial.c_str(), path.c_str()) != 0) {
    std::remove(partial.c_str());
    cannot_write(path);
  }
}

namespace {

void deliver(const Options &options, const Outcome &outcome) {
  const std::string data = outcome.data.text() + "\n";
  if (options.json == "-") return print(data);
  if (!options.json.empty()) write_file(options.json, data);
  print(outcome.text);
}

Exit complain(const Options &options, const Failure &failure) {
  std::fprintf(stderr, "error: %s\n", failure.what.c_str());
  if (!failure.where.empty()) std::fprintf(stderr, "  in: %s\n", failure.where.c_str());
  if (!failure.hint.empty()) std::fprintf(stderr, "\nhint: %s\n", failure.hint.c_str());
  const auto or_null = [](const std::string &text) { return text.empty() ? Json() : Json(text); };
  const Json error(Table{{"type", failure.type},
                         {"what", failure.what},
                         {"where", or_null(failure.where)},
                         {"hint", or_null(failure.hint)}});
  const std::string data = Json(Table{{"error", error}}).text() + "\n";
  try {
    if (options.json == "-")
      print(data);
    else if (!options.json.empty())
      write_file(options.json, data);
  } catch (const Failure &) {  // the first error is the one to tell
  }
  return failure.code;
}

}  // namespace

int main(int argc, char **argv) {
  Options options;
  try {
    parse(argc, argv, options);
    if (options.version) return print(std::string("clip-edge-cli ") + clip_edge_version() + "\n"), kOk;
    if (options.help) return print(help(options.verb)), kOk;
    clip_edge_log_set(talk, nullptr);
    const Outcome outcome = run(options);
    deliver(options, outcome);
    return outcome.code;
  } catch (const Failure &failure) {
    return complain(options, failure);
  } catch (const clip_edge::Error &error) {
    return complain(options, failure_of(error, options));
  } catch (const std::bad_alloc &) {
    return complain(options, {kUnavailable, "UnavailableError", "out of memory", "", "give fewer pictures at once"});
  } catch (const std::exception &error) {
    return complain(options, {kNo, "Error", std::string("unexpected: ") + error.what(), "", "please report it"});
  }
}
