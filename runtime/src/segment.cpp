// The C interface of outlines: the encoder once, then heads that read its map. clip_edge/segment.py is the reference.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "clock.h"
#include "preprocess.h"
#include "session.h"
#include "status.h"

using namespace clip_edge::core;

struct clip_edge_view {
  std::string space;  // of the model that made it
  std::vector<float> map;
  std::vector<int64_t> map_shape;  // of the feature map, a batch of one
  clip_edge_view_info info;
};

namespace {

constexpr int64_t kPadding = -1, kOutside = 0, kInside = 1, kTopLeft = 2, kBottomRight = 3;  // as SAM numbers them
constexpr size_t kLeastPoints = 2, kMostPoints = 256;

// The prompt in x and y of the square that the model sees, 0..1.
struct Row {
  std::vector<float> points;
  std::vector<int64_t> labels;

  void add(double x, double y, int64_t label) {
    points.push_back(static_cast<float>(x)), points.push_back(static_cast<float>(y));
    labels.push_back(label);
  }
};

// The sides of one picture's tensor, the batch taken as 1.
std::vector<int64_t> alone(const GraphTensor &tensor) {
  std::vector<int64_t> shape = tensor.shape;
  shape[0] = 1;
  return shape;
}

const GraphTensor &output_of(const GraphEntry &entry, const char *name, size_t sides) {
  for (const GraphTensor &tensor : entry.outputs)
    if (tensor.name == name && tensor.shape.size() >= sides &&
        std::all_of(tensor.shape.begin() + 1, tensor.shape.end(), [](int64_t side) { return side > 0; }))
      return tensor;
  fail(CLIP_EDGE_ERROR_FORMAT, "%s: the manifest names no output `%s` with %zu sides", entry.path.c_str(), name, sides);
}

void check_finite(const std::vector<float> &values) {
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
    fail(CLIP_EDGE_ERROR_BACKEND, "the model gives NaN or infinity");
}

// What `preprocess` keeps of a picture: the centred square, or all of it when squashed.
void set_frame(clip_edge_view_info &info, const clip_edge_preprocess_spec &spec) {
  const float width = static_cast<float>(info.width), height = static_cast<float>(info.height);
  info.left = info.top = 0, info.right = width, info.bottom = height;
  if (spec.resize == CLIP_EDGE_RESIZE_SQUASH) return;
  const float side = std::min(width, height);
  info.left = (width - side) / 2, info.top = (height - side) / 2;
  info.right = info.left + side, info.bottom = info.top + side;
}

void check_inside(const char *what, double x, double y, const clip_edge_view_info &info) {
  if (!(x >= 0 && x <= info.width && y >= 0 && y <= info.height))
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "%s %g,%g lies outside the picture, which has %d x %d pixels", what, x, y,
         static_cast<int>(info.width), static_cast<int>(info.height));
}

[[noreturn]] void unseen(const char *what, const clip_edge_view_info &info) {
  fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "%s lies outside the square that the model sees: x %g to %g, y %g to %g", what,
       info.left, info.right, info.top, info.bottom);
}

Row row_of(const clip_edge_prompt &prompt, const clip_edge_view_info &info) {
  Row row;
  const double left = info.left, top = info.top, wide = info.right - left, high = info.bottom - top;
  const auto add = [&](double x, double y, int64_t label) { row.add((x - left) / wide, (y - top) / high, label); };
  if (prompt.has_box != 0) {
    const float *box = prompt.box;
    if (!(box[0] < box[2] && box[1] < box[3])) fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the box is empty");
    check_inside("a corner of the box,", box[0], box[1], info);
    check_inside("a corner of the box,", box[2], box[3], info);
    const float x0 = std::max(box[0], info.left), y0 = std::max(box[1], info.top);
    const float x1 = std::min(box[2], info.right), y1 = std::min(box[3], info.bottom);
    if (!(x0 < x1 && y0 < y1)) unseen("the box", info);
    add(x0, y0, kTopLeft), add(x1, y1, kBottomRight);
  }
  for (size_t i = 0; i < prompt.point_count; i++) {
    const double x = prompt.points[2 * i], y = prompt.points[2 * i + 1];
    check_inside("the point", x, y, info);
    if (x < info.left || x > info.right || y < info.top || y > info.bottom) unseen("the point", info);
    add(x, y, prompt.inside == nullptr || prompt.inside[i] != 0 ? kInside : kOutside);
  }
  while (row.labels.size() < kLeastPoints) row.add(0, 0, kPadding);
  return row;
}

// For every pixel along an axis the places before and behind its centre, the share of the one behind, and whether it is
// seen.
struct Axis {
  std::vector<int> before, behind;
  std::vector<float> share;
  std::vector<uint8_t> seen;

  Axis(int places, int pixels, double low, double high) {
    for (int pixel = 0; pixel < pixels; pixel++) {
      const double centre = pixel + 0.5;
      const double at = std::clamp((centre - low) / (high - low) * places - 0.5, 0.0, places - 1.0);
      const int first = std::min(static_cast<int>(at), std::max(0, places - 2));
      before.push_back(first), behind.push_back(std::min(first + 1, places - 1));
      share.push_back(static_cast<float>(at - first));
      seen.push_back(centre >= low && centre <= high);
    }
  }
};

// One mask of the square (side, side) as the pixels of the picture: linear between places, then above 0.
void to_picture(const float *logits, int side, const clip_edge_view_info &info, uint8_t *mask) {
  const Axis down(side, info.height, info.top, info.bottom), across(side, info.width, info.left, info.right);
  std::vector<float> line(static_cast<size_t>(side));
  for (int y = 0; y < info.height; y++) {
    const float *above = logits + static_cast<size_t>(down.before[y]) * side;
    const float *below = logits + static_cast<size_t>(down.behind[y]) * side;
    for (int x = 0; x < side; x++) line[x] = above[x] * (1 - down.share[y]) + below[x] * down.share[y];
    for (int x = 0; x < info.width; x++) {
      const float value = line[across.before[x]] * (1 - across.share[x]) + line[across.behind[x]] * across.share[x];
      *mask++ = value > 0 && down.seen[y] != 0 && across.seen[x] != 0 ? 255 : 0;
    }
  }
}

clip_edge_prompt default_prompt() {
  clip_edge_prompt prompt{};
  prompt.struct_size = sizeof(prompt);
  return prompt;
}

clip_edge_prompt read_prompt(const clip_edge_prompt *given) {
  const clip_edge_prompt prompt = read_options(given, default_prompt(), "prompt");
  if (prompt.has_box == 0 && prompt.point_count == 0)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "a prompt needs a point or a box");
  if (prompt.point_count > kMostPoints)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "at most %zu points; found %zu", kMostPoints, prompt.point_count);
  if (prompt.point_count > 0) need(prompt.points, "points");
  return prompt;
}

void check_view(const SessionUse &use, const clip_edge_view &view) {
  if (view.space != use.model.bundle.manifest().space)
    fail(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "the view was made with another model");
}

void copy_to(const std::vector<float> &values, float *out, size_t floats, const char *name) {
  if (out == nullptr) return;
  if (floats < values.size())
    fail(CLIP_EDGE_ERROR_BUFFER_TOO_SMALL, "`%s` needs room for %zu floats, it has room for %zu", name, values.size(),
         floats);
  std::copy(values.begin(), values.end(), out);
}

}  // namespace

extern "C" {

clip_edge_status clip_edge_look(clip_edge_session *session, const clip_edge_image *image, clip_edge_view **view) {
  return guard([&] {
    need(session, "session");
    need(view, "view");
    *view = nullptr;
    const SessionUse use = begin(session);
    const Manifest &manifest = use.model.bundle.manifest();
    const GraphEntry &encoder = use.model.graph_entry("encoder");
    const GraphTensor &places = output_of(use.model.graph_entry("clip_head"), "patch_embeds", 4);
    auto made = std::make_unique<clip_edge_view>();
    made->space = manifest.space;
    made->map_shape = alone(output_of(encoder, "feature_map", 2));
    const uint64_t started = now_ns();
    const int32_t size = manifest.preprocess.size;
    Sides sides;
    const std::vector<uint8_t> square =
        make_square(read_image(image), manifest.preprocess, use.timings.decode_ns, &sides);
    std::vector<float> pixels(3 * static_cast<size_t>(size) * static_cast<size_t>(size));
    normalize(square.data(), manifest.preprocess, pixels.data());
    const uint64_t prepared = now_ns();
    use.timings.prepare_ns = prepared - started - use.timings.decode_ns;
    made->map = use.model.graph("encoder").run({{"pixel_values", pixels.data(), {1, 3, size, size}, false}})["feature_map"];
    use.timings.encode_ns = now_ns() - prepared;
    check_finite(made->map);
    const auto &graphs = manifest.graphs;
    made->info.struct_size = sizeof(made->info);
    made->info.width = sides.width, made->info.height = sides.height;
    made->info.map_height = static_cast<int32_t>(places.shape[2]);
    made->info.map_width = static_cast<int32_t>(places.shape[3]);
    made->info.has_masks = std::any_of(graphs.begin(), graphs.end(), [&](const GraphEntry &entry) {
      return entry.graph == "mask_decoder" && entry.target == use.model.backend.target;
    });
    set_frame(made->info, manifest.preprocess);
    *view = made.release();
  });
}

void clip_edge_view_free(clip_edge_view *view) { delete view; }

clip_edge_status clip_edge_view_get_info(const clip_edge_view *view, clip_edge_view_info *info, size_t struct_size) {
  return guard([&] {
    need(view, "view");
    need(info, "info");
    write_options(info, struct_size, view->info);
  });
}

clip_edge_status clip_edge_view_embed(clip_edge_session *session, const clip_edge_view *view, float *picture,
                                      size_t picture_floats, float *places, size_t place_floats) {
  return guard([&] {
    need(session, "session");
    need(view, "view");
    const SessionUse use = begin(session);
    check_view(use, *view);
    const uint64_t started = now_ns();
    auto found = use.model.graph("clip_head").run({{"feature_map", view->map.data(), view->map_shape, false}});
    use.timings.encode_ns = now_ns() - started;
    for (const auto &[name, values] : found) check_finite(values);
    const auto dim = static_cast<size_t>(use.model.bundle.manifest().dim);
    const size_t cells = static_cast<size_t>(view->info.map_width) * static_cast<size_t>(view->info.map_height);
    if (found["image_embeds"].size() != dim || found["patch_embeds"].size() != dim * cells)
      fail(CLIP_EDGE_ERROR_FORMAT, "the embeddings of the picture and its places must hold %zu floats each", dim);
    copy_to(found["image_embeds"], picture, picture_floats, "picture");
    copy_to(found["patch_embeds"], places, place_floats, "places");
  });
}

void clip_edge_prompt_init(clip_edge_prompt *prompt, size_t struct_size) {
  write_options(prompt, struct_size, default_prompt());
}

clip_edge_status clip_edge_outline(clip_edge_session *session, const clip_edge_view *view,
                                   const clip_edge_prompt *prompt, uint8_t *mask, size_t mask_bytes, float *iou) {
  return guard([&] {
    need(session, "session");
    need(view, "view");
    need(mask, "mask");
    const Row row = row_of(read_prompt(prompt), view->info);
    const size_t needed = static_cast<size_t>(view->info.width) * static_cast<size_t>(view->info.height);
    if (mask_bytes < needed)
      fail(CLIP_EDGE_ERROR_BUFFER_TOO_SMALL, "`mask` needs %zu bytes, it has room for %zu", needed, mask_bytes);
    const SessionUse use = begin(session);
    check_view(use, *view);
    const GraphTensor &logits = output_of(use.model.graph_entry("mask_decoder"), "mask_logits", 4);
    if (logits.shape[2] != logits.shape[3]) fail(CLIP_EDGE_ERROR_FORMAT, "masks must be square");
    const auto count = static_cast<int64_t>(row.labels.size());
    const uint64_t started = now_ns();
    auto found = use.model.graph("mask_decoder").run({{"feature_map", view->map.data(), view->map_shape, false},
                                                      {"points", row.points.data(), {1, count, 2}, false},
                                                      {"labels", row.labels.data(), {1, count}, true}});
    use.timings.encode_ns = now_ns() - started;
    const std::vector<float> &masks = found["mask_logits"], &expected = found["iou"];
    check_finite(masks), check_finite(expected);
    if (expected.size() != static_cast<size_t>(logits.shape[1]))
      fail(CLIP_EDGE_ERROR_FORMAT, "as many values of `iou` as masks are needed");
    const auto best = static_cast<size_t>(std::max_element(expected.begin(), expected.end()) - expected.begin());
    const int side = static_cast<int>(logits.shape[2]);
    to_picture(&masks[best * static_cast<size_t>(side) * static_cast<size_t>(side)], side, view->info, mask);
    if (iou != nullptr) *iou = expected[best];
  });
}

}  // extern "C"
