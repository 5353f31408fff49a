// What other parts of the C interface need of a session.
#pragma once

#include "model.h"

namespace clip_edge::core {

struct SessionUse {
  clip_edge_model &model;
  clip_edge_timings &timings;  // of this call, all 0 at its start
};

// Begins a call; `session` must not be null. Throws Error where the abort callback says so.
SessionUse begin(clip_edge_session *session);

}  // namespace clip_edge::core
