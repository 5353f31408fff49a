// Stored embeddings: `index` writes them beside their labels, `search` finds the nearest. The same file as clip-edge's.
#include <cstring>

#include "cli.h"

namespace clip_edge::cli {
namespace {

constexpr size_t kPicturesAtOnce = 16;  // decoded together: bounds memory

template <class Item>
void append(std::string &to, const std::vector<Item> &items) {
  to.append(reinterpret_cast<const char *>(items.data()), items.size() * sizeof(Item));
}

std::string tensor(const char *name, const char *type, const std::string &shape, size_t start, size_t end) {
  return format(",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", name, type, shape.c_str(), start,
                end);
}

// (N, D) floats and N labels as a safetensors file, laid out as clip_edge/runtime/index.py does.
std::string index_file(const std::string &space, size_t dim, const std::vector<float> &values,
                       const std::vector<std::string> &labels) {
  std::vector<int64_t> ends;
  std::string text;
  for (const std::string &label : labels) {
    text += label;
    ends.push_back(static_cast<int64_t>(text.size()));
  }
  const size_t count = labels.size(), after_ends = 8 * count, after_values = after_ends + 4 * values.size();
  const std::string rows = std::to_string(count);
  std::string header =
      "{\"__metadata__\":{\"clip_edge_index\":\"1\",\"embedding_space\":" + Json(space).text() + "}" +
      tensor("label_ends", "I64", rows, 0, after_ends) +
      tensor("embeddings", "F32", rows + "," + std::to_string(dim), after_ends, after_values);
  if (!text.empty())
    header += tensor("labels", "U8", std::to_string(text.size()), after_values, after_values + text.size());
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // tensors begin where their type may be read
  std::string file;
  for (size_t i = 0; i < 8; i++) file.push_back(static_cast<char>(header.size() >> (8 * i) & 255));
  file += header;
  append(file, ends);
  append(file, values);
  return file + text;
}

std::vector<float> embed_pictures(Session &session, const Options &options) {
  const std::vector<std::string> &paths = options.images;
  std::vector<float> values;
  for (size_t start = 0; start < paths.size(); start += kPicturesAtOnce) {
    std::vector<Picture> pictures;
    std::vector<clip_edge_image> images;
    for (size_t i = start; i < paths.size() && i < start + kPicturesAtOnce; i++)
      pictures.push_back(read_picture(paths[i], options));
    for (const Picture &picture : pictures) images.push_back(picture.image);
    const std::vector<float> part = session.embed(images);
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

std::vector<float> embed_texts(Session &session, const std::vector<std::string> &texts) {
  return session.embed(std::vector<std::string_view>(texts.begin(), texts.end()));
}

Index open_index(const Options &options, const Model &model) {
  try {
    return Index(options.index, model);
  } catch (const Error &error) {
    const bool other_space = error.status() == CLIP_EDGE_ERROR_INVALID_ARGUMENT;
    const bool memory = error.status() == CLIP_EDGE_ERROR_OUT_OF_MEMORY;
    throw Failure{memory ? kUnavailable : kNo, memory ? "UnavailableError" : "ArtifactError", error.what(),
                  options.index, other_space ? "make the index again with this bundle" : "make it with `index`"};
  }
}

}  // namespace

Outcome run_index(const Options &options) {
  const Model model = open_model(options, options.precision);
  Session session(model);
  std::vector<float> values = embed_pictures(session, options);
  std::vector<std::string> labels = options.images;
  if (!options.texts.empty()) {
    const std::vector<float> texts = embed_texts(session, options.texts);
    values.insert(values.end(), texts.begin(), texts.end());
    labels.insert(labels.end(), options.texts.begin(), options.texts.end());
  }
  const clip_edge_model_info info = model.info();
  const std::string file = index_file(info.embedding_space, static_cast<size_t>(info.dim), values, labels);
  write_file(options.out, file);
  Outcome outcome;
  outcome.text = format("%zu rows of %d floats, %zu bytes\n", labels.size(), static_cast<int>(info.dim), file.size());
  outcome.data = Table{{"index", options.out},
                       {"embedding_space", info.embedding_space},
                       {"rows", static_cast<int64_t>(labels.size())},
                       {"dim", info.dim},
                       {"bytes", static_cast<int64_t>(file.size())}};
  return outcome;
}

Outcome run_search(const Options &options) {
  const Model model = open_model(options, options.precision);
  const Index index = open_index(options, model);
  Session session(model);
  std::vector<float> queries = embed_pictures(session, options);
  std::vector<std::string> names = options.images;
  if (!options.texts.empty()) {
    const std::vector<float> texts = embed_texts(session, options.texts);
    queries.insert(queries.end(), texts.begin(), texts.end());
    names.insert(names.end(), options.texts.begin(), options.texts.end());
  }
  Outcome outcome;
  List answers;
  const auto dim = static_cast<std::ptrdiff_t>(model.info().dim);
  for (size_t i = 0; i < names.size(); i++) {
    const auto from = queries.begin() + static_cast<std::ptrdiff_t>(i) * dim;
    List rows;
    if (names.size() > 1) outcome.text += names[i] + "\n";
    for (const clip_edge_hit &hit :
         index.search(std::vector<float>(from, from + dim), static_cast<size_t>(options.top), options.threads)) {
      const std::string label = index.label(hit.row);
      rows.push_back(Table{{"row", static_cast<int64_t>(hit.row)}, {"score", static_cast<double>(hit.score)}, {"label", label}});
      outcome.text += format("%.4f  %s\n", static_cast<double>(hit.score), label.c_str());
    }
    answers.push_back(Table{{"query", names[i]}, {"hits", rows}});
  }
  outcome.data = Table{{"index", options.index}, {"rows", static_cast<int64_t>(index.info().count)}, {"queries", answers}};
  return outcome;
}

}  // namespace clip_edge::cli
