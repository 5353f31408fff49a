// What the parts of clip-edge-cli share.
#pragma once

#include <string>
#include <vector>

#include "clip_edge/clip_edge.hpp"
#include "json.h"

namespace clip_edge::cli {

// Exit codes and error types: docs/errors.md.
enum Exit { kOk = 0, kNo = 1, kUsage = 2, kUnavailable = 3 };

struct Failure {
  Exit code;
  std::string type, what, where, hint;
};

struct Options {
  std::string verb, bundle, precision, onnxruntime, json, index, out;
  std::string backend = "onnxruntime", plugin, libraries, engines, capability;
  std::vector<std::string> images, texts, labels, templates;
  std::vector<float> box, points, beside;  // of a prompt
  int threads = 0, top = 5, device = 0, workspace_mib = 0;
  double budget_s = 5;
  clip_edge_decoding decoding = CLIP_EDGE_DECODE_FAST;
  bool help = false, version = false;
};

// Reads the command line into `options`; what was read stays there when it throws Failure.
void parse(int argc, char **argv, Options &options);
std::string help(const std::string &verb);  // of all verbs where it is empty

// The pixels of a PPM or PAM file, and the library's view of them; a JPEG or PNG is left to the library.
struct Picture {
  std::vector<uint8_t> pixels;
  clip_edge_image image;
};
// `path` must outlive the picture. Throws Failure.
Picture read_picture(const std::string &path, const Options &options);

// What a verb found: `text` for people, `data` for programs.
struct Outcome {
  std::string text;
  Json data;
  Exit code = kOk;
};

// The model in one precision, or in the first of the bundle where that is empty; throws Failure.
Model open_model(const Options &options, const std::string &precision);
// The one that was asked for, else all that the backend reads of the bundle.
std::vector<std::string> precisions_of(const Options &options);
Failure failure_of(const Error &error, const Options &options);

Outcome run_info(const Options &options);
Outcome run_verify(const Options &options);
Outcome run_embed(const Options &options);
Outcome run_classify(const Options &options);
Outcome run_index(const Options &options);
Outcome run_search(const Options &options);
Outcome run_outline(const Options &options);
Outcome run_bench(const Options &options);
Outcome run_build(const Options &options);

// Written beside its place and renamed: there is never half a file. Throws Failure.
void write_file(const std::string &path, const std::string &text);

// printf into a string.
std::string format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));

}  // namespace clip_edge::cli
