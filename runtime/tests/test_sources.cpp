// One bundle from a folder, from memory and out of a tar archive: the same files, the same refusals.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "bundle.h"
#include "check.h"
#include "sha256.h"
#include "status.h"

using namespace clip_edge::core;

namespace {

using Files = std::map<std::string, std::string>;

std::string work;  // a folder of this run

std::string manifest_of(const Files &files) {
  std::string listed;
  for (const auto &[name, content] : files)
    listed += (listed.empty() ? "\"" : ",\"") + name + R"(":{"sha256":")" + sha256_hex(content) + R"(","bytes":)" +
              std::to_string(content.size()) + "}";
  const auto artifact = [](const char *target, const char *path, const char *type, const char *more) {
    return std::string(R"({"tower":"image","target":")") + target + R"(","precision":"fp32","path":")" + path +
           R"(","input":"pixel_values","input_dtype":")" + type +
           R"(","output":"image_embeds","batch":null,"opset":18,"parameters":1,"verification":null)" + more + "}";
  };
  const std::string body =
      R"("schema":1,"name":"tiny","created_by":"test","embedding":{"space":"00ff","dim":8,"normalized":true,)"
      R"("logit_scale":14.2,"logit_bias":null},"image":{"preprocess":{"size":32,"resize":"shortest",)"
      R"("interpolation":"bicubic","mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]},"crop":"center","channel_order":"RGB",)"
      R"("layout":"NCHW","pixel_scale":0.00392156862745098,"antialias":true},"text":{"tokenizer":{"context_length":16,)"
      R"("vocab_size":300,"pad_id":0,"bos_id":1,"eos_id":2,"clean":"none"},"causal":false,"pad_mask":true,)"
      R"("pooling":"eos","activation":"gelu"},"artifacts":[)" +
      artifact("coreml", "coreml/V.mlpackage", "uint8", ",\"quantization\":\"report.json\"") + "," +
      artifact("onnx", "onnx/v.onnx", "float32", ",\"quantization\":null") +
      R"(],"licences":[],"research_only":false,"source":{},"versions":{},"files":{)" + listed + "}}";
  const std::string head = "{\"manifest_sha256\":\"";
  return head + sha256_hex(head + std::string(64, '0') + "\"," + body) + "\"," + body;
}

Files bundle_files() {
  return {{"onnx/v.onnx", "a graph"},
          {"coreml/V.mlpackage/Data/w.bin", std::string(700, '\x07')},
          {"coreml/V.mlpackage/Manifest.json", "{}"},
          {"report.json", "{}"},
          {"empty", ""}};
}

Files with_manifest(Files files) {
  const std::string manifest = manifest_of(files);
  files["manifest.json"] = manifest;
  return files;
}

void write(const std::string &path, const std::string &content) {
  for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1))
    mkdir(path.substr(0, at).c_str(), 0700);
  std::ofstream(path, std::ios::binary) << content;
}

std::string as_folder(const Files &files, const char *name) {
  for (const auto &[file, content] : files) write(work + "/" + name + "/" + file, content);
  return work + "/" + name;
}

std::string tar_header(const std::string &name, size_t bytes, char type) {
  std::string header(512, '\0');
  header.replace(0, name.size(), name);
  const auto field = [&](size_t at, const char *format, size_t value) {
    char text[16];
    std::snprintf(text, sizeof(text), format, value);
    header.replace(at, std::strlen(text), text);
  };
  field(100, "%07zo", 0644);
  field(124, "%011zo", bytes);
  header[156] = type;
  header.replace(257, 8, std::string("ustar\0" "00", 8));
  header.replace(148, 8, 8, ' ');
  size_t sum = 0;
  for (const char letter : header) sum += static_cast<unsigned char>(letter);
  field(148, "%06zo", sum);
  header[154] = '\0';
  return header;
}

std::string as_tar(const Files &files) {
  std::string archive = tar_header("./", 0, '5');
  for (const auto &[name, content] : files) {
    archive += tar_header("./" + name, content.size(), '0') + content;
    archive.resize((archive.size() + 511) / 512 * 512);
  }
  return archive + std::string(1024, '\0');
}

// The archive in the middle of another file.
std::unique_ptr<Bundle> open_tar(const std::string &archive, int64_t length = 0) {
  const std::string path = work + "/package";
  write(path, "front" + archive + "behind");
  const Descriptor file(open(path.c_str(), O_RDONLY));
  const int64_t all = static_cast<int64_t>(archive.size());
  return std::make_unique<Bundle>(open_archive(file.get(), 5, length == 0 ? all : length));
}

std::unique_ptr<Bundle> open_memory(const Files &files) {
  std::vector<clip_edge_file> table;
  for (const auto &[name, content] : files) table.push_back({name.c_str(), content.data(), content.size()});
  return std::make_unique<Bundle>(open_files(table.data(), table.size()));
}

std::string refusal(const std::function<std::unique_ptr<Bundle>()> &open) {
  try {
    open()->check_all();
    return "accepted";
  } catch (const Error &error) {
    CHECK(error.status != CLIP_EDGE_ERROR_INTERNAL);
    return error.text.substr(error.text.find(work) == 0 ? work.size() + 1 : 0);
  }
}

void every_source_gives_the_same_files() {
  const Files files = bundle_files(), whole = with_manifest(files);
  std::unique_ptr<Bundle> bundles[] = {std::make_unique<Bundle>(open_folder(as_folder(whole, "good"))),
                                       open_memory(whole), open_tar(as_tar(whole))};
  for (const auto &bundle : bundles) {
    for (const auto &[name, content] : files) CHECK_TEXT(bundle->read(name, 1000), content);
    bundle->check_all();
    CHECK_TEXT(bundle->artifact("image", "onnx", "").path, "onnx/v.onnx");
  }
  CHECK_TEXT(refusal([&] { return open_tar(as_tar(whole), 512); }), "archive/manifest.json: not in the archive");
}

void every_source_refuses_the_same() {
  const Files whole = with_manifest(bundle_files());
  const auto changed = [&](const std::string &name, const char *content) {
    Files files = whole;
    content == nullptr ? static_cast<void>(files.erase(name)) : static_cast<void>(files[name] = content);
    return files;
  };
  const struct {
    const char *name, *content, *expected;
  } kCases[] = {{"onnx/v.onnx", "a grapH", "/onnx/v.onnx: changed: its size or hash is not what the manifest says"},
                {"onnx/v.onnx", "long graph", "/onnx/v.onnx: changed: 7 bytes expected, 10 found"},
                {"report.json", nullptr, "/report.json: missing file"},
                {"extra.txt", "x", "/extra.txt: a file that the manifest does not list"},
                {"onnx/v.onnx/", nullptr, "accepted"}};
  int round = 0;
  for (const auto &row : kCases) {
    const Files files = changed(row.name, row.content);
    const std::string folder = "case" + std::to_string(round++), expected = row.expected;
    const std::string where = expected == "accepted" ? "" : folder, archive = where.empty() ? "" : "archive";
    const std::string path = as_folder(files, folder.c_str());
    CHECK_TEXT(refusal([&] { return std::make_unique<Bundle>(open_folder(path)); }), where + expected);
    CHECK_TEXT(refusal([&] { return open_tar(as_tar(files)); }), archive + expected);
    const bool partial = row.content == nullptr && expected != "accepted";  // allowed until somebody reads it
    CHECK_TEXT(refusal([&] { return open_memory(files); }),
               partial ? "memory/report.json: not among the given files"
                       : (where.empty() ? "" : "memory") + expected);
  }
}

void folders_hold_no_links() {
  const std::string folder = as_folder(with_manifest(bundle_files()), "linked");
  const auto open = [&] { return std::make_unique<Bundle>(open_folder(folder)); };
  CHECK(symlink("/etc", (folder + "/etc").c_str()) == 0);
  CHECK_TEXT(refusal(open), "linked/etc: a link in the bundle");
  CHECK(unlink((folder + "/etc").c_str()) == 0 && unlink((folder + "/report.json").c_str()) == 0);
  CHECK(symlink("empty", (folder + "/report.json").c_str()) == 0);
  CHECK_TEXT(refusal(open), "linked/report.json: a link in the bundle");
  CHECK(unlink((folder + "/report.json").c_str()) == 0 && mkfifo((folder + "/report.json").c_str(), 0600) == 0);
  CHECK_TEXT(refusal(open), "linked/report.json: not a file");
}

void odd_archives_are_told() {
  const Files whole = with_manifest(bundle_files());
  const std::string good = as_tar(whole);
  const auto with = [&](const std::string &header) { return [=] { return open_tar(header + good); }; };
  CHECK_TEXT(refusal(with(tar_header("x", 0, '2'))),
             "archive: `x` is no plain file (make the archive with --format=ustar)");
  CHECK_TEXT(refusal(with(tar_header("../x", 0, '0'))), "archive: a path leaves the bundle: `../x`");
  CHECK_TEXT(refusal(with(tar_header("/etc/passwd", 0, '0'))), "archive: a path leaves the bundle: `/etc/passwd`");
  CHECK_TEXT(refusal(with(tar_header("empty", 0, '0'))), "archive: a file is there twice: `empty`");
  CHECK_TEXT(refusal(with(tar_header("x", size_t{1} << 30, '0'))), "archive: it is cut off");
  CHECK_TEXT(refusal(with(std::string(512, 'x'))), "archive: not a tar file of the ustar format");
  std::string header = tar_header("x", 0, '0');
  header[148] ^= 1;
  CHECK_TEXT(refusal(with(header)), "archive: a damaged header");
  CHECK_TEXT(refusal([] { return std::make_unique<Bundle>(open_archive(-1, 0, -1)); }), "archive: Bad file descriptor");
  const Descriptor folder(open(work.c_str(), O_RDONLY));
  CHECK_TEXT(refusal([&] { return std::make_unique<Bundle>(open_archive(folder.get(), 0, -1)); }),
             "archive: the descriptor names no plain file");
  const Descriptor file(open((work + "/package").c_str(), O_RDONLY));
  const int64_t end = static_cast<int64_t>(good.size());
  for (const auto &[offset, length] : {std::pair(int64_t{-1}, int64_t{-1}), {int64_t{0}, end * 9}, {end * 9, int64_t{-1}}})
    CHECK(refusal([&, o = offset, l = length] { return std::make_unique<Bundle>(open_archive(file.get(), o, l)); })
              .find("do not lie in a file of") != std::string::npos);
}

void odd_tables_are_told() {
  const Files whole = with_manifest(bundle_files());
  const clip_edge_file twice[] = {{"manifest.json", "", 0}, {"manifest.json", "", 0}}, unnamed[] = {{nullptr, "", 0}};
  clip_edge_model *model = nullptr;
  CHECK(clip_edge_model_open_files(twice, 2, nullptr, &model) == CLIP_EDGE_ERROR_FORMAT);
  CHECK_TEXT(clip_edge_last_error(), "memory: a name that no bundle has, or given twice: `manifest.json`");
  CHECK(clip_edge_model_open_files(unnamed, 1, nullptr, &model) == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  CHECK(clip_edge_model_open_files(nullptr, 1, nullptr, &model) == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  CHECK(clip_edge_model_open_files(twice, 0, nullptr, &model) == CLIP_EDGE_ERROR_IO && model == nullptr);
  CHECK_TEXT(clip_edge_last_error(), "memory/manifest.json: not among the given files");
}

// Any bytes of the archive changed: a status, or the very files that the manifest describes.
void damaged_archives_end_in_a_status(int rounds) {
  const std::string whole = as_tar(with_manifest(bundle_files()));
  std::mt19937 source(29);
  const auto below = [&](size_t most) { return std::uniform_int_distribution<size_t>(0, most - 1)(source); };
  int accepted = 0;
  for (int round = 0; round < rounds; round++) {
    std::string archive = whole;
    for (size_t changes = 1 + below(4); changes > 0; changes--)  // most of them in headers
      archive[round % 4 == 0 ? below(archive.size()) : below(archive.size() / 512) * 512 + below(345)] =
          static_cast<char>(below(256));
    if (round % 7 == 0) archive.resize(below(archive.size()) + 1);
    accepted += refusal([&] { return open_tar(archive); }) == "accepted";
  }
  std::printf("archives: %d of %d damaged ones still held the bundle\n", accepted, rounds);
}

}  // namespace

int main(int argc, char **argv) {
  char folder[] = "/tmp/clip_edge_sources_XXXXXX";
  if (mkdtemp(folder) == nullptr) return 1;
  work = folder;
  every_source_gives_the_same_files();
  every_source_refuses_the_same();
  folders_hold_no_links();
  odd_archives_are_told();
  odd_tables_are_told();
  damaged_archives_end_in_a_status(argc > 1 ? std::atoi(argv[1]) : 1000);
  const std::string remove = "rm -rf '" + work + "'";
  CHECK(std::system(remove.c_str()) == 0);
  return finish();
}
