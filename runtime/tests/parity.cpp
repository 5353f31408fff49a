// The library behind a pipe: tests/runtime/native/remote.py asks it from another process, which may be another processor
// under emulation. Both sides are 64 bits and little-endian, so structures travel as they lie in memory.
//
// A request is a letter, then fields; a blob is a 64-bit length and its bytes. An answer is a 32-bit status, then a blob:
// the result, or what clip_edge_last_error() says.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "clip_edge/clip_edge.h"

namespace {

template <class Value>
Value take() {
  Value value;
  if (std::fread(&value, sizeof(value), 1, stdin) != 1) std::exit(0);  // the other side is gone
  return value;
}

std::string take_blob() {
  std::string bytes(take<uint64_t>(), '\0');
  if (!bytes.empty() && std::fread(&bytes[0], bytes.size(), 1, stdin) != 1) std::exit(1);
  return bytes;
}

void answer(clip_edge_status status, const void *result, size_t bytes) {
  const std::string text = status == CLIP_EDGE_OK ? "" : clip_edge_last_error();
  const auto number = static_cast<int32_t>(status);
  const uint64_t size = status == CLIP_EDGE_OK ? bytes : text.size();
  std::fwrite(&number, sizeof(number), 1, stdout);
  std::fwrite(&size, sizeof(size), 1, stdout);
  std::fwrite(status == CLIP_EDGE_OK ? result : text.data(), 1, size, stdout);
  std::fflush(stdout);
}

// A picture, whose planes follow it as blobs.
struct Picture {
  clip_edge_image image = take<clip_edge_image>();
  std::string planes[3];
  Picture() {
    image.path = nullptr;
    for (int p = 0; p < 3; p++) {
      planes[p] = take_blob();
      image.plane[p] = planes[p].empty() ? nullptr : reinterpret_cast<const uint8_t *>(planes[p].data());
    }
  }
};

template <class Item, class Call>
void prepare(Call call) {
  const auto spec = take<clip_edge_preprocess_spec>();
  const Picture picture;
  std::vector<Item> out(3 * static_cast<size_t>(spec.size) * static_cast<size_t>(spec.size));
  answer(call(&spec, &picture.image, out.data(), out.size()), out.data(), out.size() * sizeof(Item));
}

std::vector<clip_edge_tokenizer *> tokenizers;
std::vector<clip_edge_session *> sessions;

template <class Handle>
void keep(clip_edge_status status, std::vector<Handle *> &kept, Handle *made) {
  const auto number = static_cast<uint32_t>(kept.size());
  if (status == CLIP_EDGE_OK) kept.push_back(made);
  answer(status, &number, sizeof(number));
}

void open_tokenizer() {
  const auto spec = take<clip_edge_text_spec>();
  const std::string json = take_blob();
  clip_edge_tokenizer *made = nullptr;
  keep(clip_edge_tokenizer_new(json.data(), json.size(), &spec, &made), tokenizers, made);
}

void tokenize() {
  clip_edge_tokenizer *tokenizer = tokenizers.at(take<uint32_t>());
  std::vector<int32_t> ids(take<uint32_t>());
  const std::string text = take_blob();
  answer(clip_edge_tokenize(tokenizer, text.data(), text.size(), ids.data(), ids.size()), ids.data(),
         ids.size() * sizeof(ids[0]));
}

void open_model() {
  const std::string folder = take_blob(), library = take_blob();
  clip_edge_model_options options;
  clip_edge_model_options_init(&options, sizeof(options));
  options.threads = 1;
  options.onnxruntime = library.c_str();
  clip_edge_model *model = nullptr;
  clip_edge_session *session = nullptr;
  clip_edge_status status = clip_edge_model_open(folder.c_str(), &options, &model);
  if (status == CLIP_EDGE_OK) status = clip_edge_session_new(model, &session);
  keep(status, sessions, session);
}

void embed_images() {
  clip_edge_session *session = sessions.at(take<uint32_t>());
  const auto dim = take<uint32_t>(), count = take<uint32_t>();
  const std::vector<Picture> pictures(count);
  std::vector<clip_edge_image> images;
  for (const Picture &picture : pictures) images.push_back(picture.image);
  std::vector<float> out(size_t{dim} * count);
  answer(clip_edge_embed_images(session, images.data(), count, out.data(), out.size()), out.data(), out.size() * 4);
}

void embed_texts() {
  clip_edge_session *session = sessions.at(take<uint32_t>());
  const auto dim = take<uint32_t>(), count = take<uint32_t>();
  std::vector<std::string> texts;
  for (uint32_t i = 0; i < count; i++) texts.push_back(take_blob());
  std::vector<const char *> data;
  std::vector<size_t> lengths;
  for (const std::string &text : texts) data.push_back(text.c_str()), lengths.push_back(text.size());
  std::vector<float> out(size_t{dim} * count);
  answer(clip_edge_embed_texts(session, data.data(), lengths.data(), count, out.data(), out.size()), out.data(),
         out.size() * 4);
}

}  // namespace

int main() {
  for (;;) switch (take<char>()) {
      case 'r': prepare<uint8_t>(clip_edge_resize_image); break;
      case 'p': prepare<float>(clip_edge_preprocess_image); break;
      case 't': open_tokenizer(); break;
      case 'k': tokenize(); break;
      case 'm': open_model(); break;
      case 'i': embed_images(); break;
      case 's': embed_texts(); break;
      default: return 1;
    }
}
