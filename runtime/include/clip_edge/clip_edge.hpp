// clip-edge for C++17: owning handles and exceptions over clip_edge.h, nothing else. Header only.
#ifndef CLIP_EDGE_CLIP_EDGE_HPP
#define CLIP_EDGE_CLIP_EDGE_HPP

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "clip_edge/clip_edge.h"

namespace clip_edge {

// What a failed call throws: the status and the library's own text.
class Error : public std::runtime_error {
 public:
  Error(clip_edge_status status, const char *text) : std::runtime_error(text), status_(status) {}
  clip_edge_status status() const noexcept { return status_; }

 private:
  clip_edge_status status_;
};

inline void check(clip_edge_status status) {
  if (status != CLIP_EDGE_OK) throw Error(status, clip_edge_last_error());
}

// A picture in the caller's memory, upright RGB unless fields are changed.
inline clip_edge_image image(const uint8_t *pixels, int width, int height,
                             clip_edge_pixel_format format = CLIP_EDGE_PIXELS_RGB) {
  clip_edge_image result;
  clip_edge_image_init(&result, sizeof(result));
  result.plane[0] = pixels;
  result.width = width;
  result.height = height;
  result.format = format;
  return result;
}

// A JPEG or PNG in the caller's memory.
inline clip_edge_image encoded(const uint8_t *bytes, size_t size) {
  clip_edge_image result = image(bytes, 0, 0, CLIP_EDGE_PIXELS_ENCODED);
  result.encoded_bytes = size;
  return result;
}

// A JPEG or PNG file. The path must outlive the call that uses the picture.
inline clip_edge_image file(const char *path) {
  clip_edge_image result = image(nullptr, 0, 0, CLIP_EDGE_PIXELS_FILE);
  result.path = path;
  return result;
}

// Labels as vectors, for Session::classify.
class Prompts {
 public:
  explicit Prompts(clip_edge_prompts *handle, size_t count) : handle_(handle, clip_edge_prompts_free), count_(count) {}
  const clip_edge_prompts *get() const { return handle_.get(); }
  size_t count() const { return count_; }

 private:
  std::shared_ptr<clip_edge_prompts> handle_;
  size_t count_;
};

// A bundle, shared between threads. Copies name the same model.
class Model {
 public:
  explicit Model(const std::string &folder, const clip_edge_model_options *options = nullptr) {
    clip_edge_model *model = nullptr;
    check(clip_edge_model_open(folder.c_str(), options, &model));
    handle_.reset(model, clip_edge_model_free);
  }
  // From files in memory, which must outlive the model.
  explicit Model(const std::vector<clip_edge_file> &files, const clip_edge_model_options *options = nullptr) {
    clip_edge_model *model = nullptr;
    check(clip_edge_model_open_files(files.data(), files.size(), options, &model));
    handle_.reset(model, clip_edge_model_free);
  }
  // Out of a tar archive inside of an open file; length -1: up to its end.
  Model(int descriptor, int64_t offset, int64_t length, const clip_edge_model_options *options = nullptr) {
    clip_edge_model *model = nullptr;
    check(clip_edge_model_open_archive(descriptor, offset, length, options, &model));
    handle_.reset(model, clip_edge_model_free);
  }
  clip_edge_model *get() const { return handle_.get(); }

  clip_edge_model_info info() const {
    clip_edge_model_info result;
    check(clip_edge_model_get_info(get(), &result, sizeof(result)));
    return result;
  }

  // The engines of TensorRT or TensorRT-RTX, kept where this backend finds them.
  void build(const clip_edge_build_options *options = nullptr) const { check(clip_edge_model_build(get(), options)); }

  // The proof on this machine; numbers that differ do not throw: see `passed`, and clip_edge_last_error() for words.
  clip_edge_verification verify() const {
    clip_edge_verification result;
    const clip_edge_status status = clip_edge_model_verify(get(), &result, sizeof(result));
    if (status != CLIP_EDGE_ERROR_VERIFICATION) check(status);
    return result;
  }

 private:
  std::shared_ptr<clip_edge_model> handle_;
};

// A picture as the encoder saw it, for Session::outline. Copies name the same.
class View {
 public:
  explicit View(clip_edge_view *handle) : handle_(handle, clip_edge_view_free) {}
  const clip_edge_view *get() const { return handle_.get(); }
  clip_edge_view_info info() const {
    clip_edge_view_info result;
    check(clip_edge_view_get_info(get(), &result, sizeof(result)));
    return result;
  }

 private:
  std::shared_ptr<clip_edge_view> handle_;
};

// What a prompt outlines: width * height bytes, 255 inside, and how good the model expects that to be.
struct Outline {
  std::vector<uint8_t> mask;
  float iou;
};

// One thread's use of a model, which it keeps alive.
class Session {
 public:
  explicit Session(Model model) : model_(std::move(model)), dim_(static_cast<size_t>(model_.info().dim)) {
    clip_edge_session *session = nullptr;
    check(clip_edge_session_new(model_.get(), &session));
    handle_.reset(session);
  }
  clip_edge_session *get() const { return handle_.get(); }

  // N pictures -> N * dim floats.
  std::vector<float> embed(const std::vector<clip_edge_image> &images) {
    std::vector<float> out(images.size() * dim_);
    check(clip_edge_embed_images(get(), images.data(), images.size(), out.data(), out.size()));
    return out;
  }

  // N sentences -> N * dim floats.
  std::vector<float> embed(const std::vector<std::string_view> &texts) {
    std::vector<const char *> data;
    std::vector<size_t> lengths;
    for (std::string_view text : texts) {
      data.push_back(text.empty() ? "" : text.data());
      lengths.push_back(text.size());
    }
    std::vector<float> out(texts.size() * dim_);
    check(clip_edge_embed_texts(get(), data.data(), lengths.data(), texts.size(), out.data(), out.size()));
    return out;
  }

  Prompts prompts(const std::vector<std::string> &labels, const std::vector<std::string> &templates = {"{}"}) {
    std::vector<const char *> names, frames;
    for (const std::string &label : labels) names.push_back(label.c_str());
    for (const std::string &frame : templates) frames.push_back(frame.c_str());
    clip_edge_prompts *prompts = nullptr;
    check(clip_edge_prompts_new(get(), names.data(), names.size(), frames.data(), frames.size(), &prompts));
    return Prompts(prompts, labels.size());
  }

  // The probability of each label.
  std::vector<float> classify(const Prompts &prompts, const clip_edge_image &image) {
    std::vector<float> out(prompts.count());
    check(clip_edge_classify(get(), prompts.get(), &image, out.data(), out.size()));
    return out;
  }

  // Runs the encoder, once for any number of outlines.
  View look(const clip_edge_image &image) {
    clip_edge_view *view = nullptr;
    check(clip_edge_look(get(), &image, &view));
    return View(view);
  }

  Outline outline(const View &view, const clip_edge_prompt &prompt) {
    const clip_edge_view_info info = view.info();
    Outline result{std::vector<uint8_t>(static_cast<size_t>(info.width) * static_cast<size_t>(info.height)), 0};
    check(clip_edge_outline(get(), view.get(), &prompt, result.mask.data(), result.mask.size(), &result.iou));
    return result;
  }

  clip_edge_timings timings() const {
    clip_edge_timings result;
    clip_edge_session_get_timings(get(), &result, sizeof(result));
    return result;
  }

 private:
  struct Free {
    void operator()(clip_edge_session *session) const { clip_edge_session_free(session); }
  };
  Model model_;
  size_t dim_;
  std::unique_ptr<clip_edge_session, Free> handle_;
};

// Stored embeddings. Copies name the same file.
class Index {
 public:
  // Refused where its vectors are not of the model's space.
  Index(const std::string &path, const Model &model) {
    clip_edge_index *index = nullptr;
    check(clip_edge_index_open(path.c_str(), model.info().embedding_space, &index));
    handle_.reset(index, clip_edge_index_free);
  }
  const clip_edge_index *get() const { return handle_.get(); }

  clip_edge_index_info info() const {
    clip_edge_index_info result;
    check(clip_edge_index_get_info(get(), &result, sizeof(result)));
    return result;
  }

  std::string label(uint64_t row) const {
    const char *text = nullptr;
    size_t bytes = 0;
    check(clip_edge_index_get_label(get(), row, &text, &bytes));
    return std::string(text, bytes);
  }

  // The best rows for one query of `dim` floats.
  std::vector<clip_edge_hit> search(const std::vector<float> &query, size_t top, int threads = 1) const {
    const clip_edge_index_info known = info();
    if (query.size() != static_cast<size_t>(known.dim))
      throw Error(CLIP_EDGE_ERROR_INVALID_ARGUMENT, "a query must have as many floats as the index's rows");
    std::vector<clip_edge_hit> hits(top < known.count ? top : static_cast<size_t>(known.count));
    size_t found = 0;
    check(clip_edge_index_search(get(), query.data(), 1, top, threads, hits.data(), hits.size(), &found));
    return hits;
  }

 private:
  std::shared_ptr<clip_edge_index> handle_;
};

}  // namespace clip_edge

#endif
