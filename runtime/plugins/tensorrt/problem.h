// Errors inside the plug-in; they become a clip_edge_plugin_error before they reach the library.
#pragma once

#include <string>

#include "clip_edge/clip_edge.h"

namespace clip_edge::plugin {

struct Problem {
  clip_edge_status status;
  std::string text;
};

[[noreturn]] inline void fail(const std::string &text, clip_edge_status status = CLIP_EDGE_ERROR_BACKEND) {
  throw Problem{status, text};
}

}  // namespace clip_edge::plugin
