#include "engine_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "sha256.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr size_t kMostEngineBytes = size_t{4} << 30, kMostEntryBytes = size_t{1} << 20;
constexpr size_t kNameDigits = 32;

std::string quoted(const std::string &text) {
  std::string result = "\"";
  for (const char letter : text) {
    char code[8];
    std::snprintf(code, sizeof(code), "\\u%04x", static_cast<unsigned char>(letter));
    if (letter == '"' || letter == '\\')
      result += std::string("\\") + letter;
    else
      result += static_cast<unsigned char>(letter) < 0x20 ? code : std::string(1, letter);
  }
  return result + "\"";
}

// A table as Python's `json.dumps(…, indent=2)` writes it, `depth` tables deep. The name of an engine is a hash of it.
class Table {
 public:
  explicit Table(int depth) : indent_(static_cast<size_t>(2 * depth + 2), ' ') {}
  Table &add(const std::string &key, const std::string &value) {
    text_ += (text_.empty() ? "{\n" : ",\n") + indent_ + quoted(key) + ": " + value;
    return *this;
  }
  Table &add(const std::string &key, int64_t value) { return add(key, std::to_string(value)); }
  std::string text() const { return text_.empty() ? "{}" : text_ + "\n" + indent_.substr(2) + "}"; }

 private:
  std::string indent_, text_;
};

std::string system_name() {
  utsname names{};
  return uname(&names) != 0 ? "unknown" : std::string(names.sysname) + " " + names.machine;
}

std::string key_text(const EngineGraph &graph, const EngineKey &key, int depth) {
  const std::string inner(static_cast<size_t>(2 * depth + 6), ' '), end(static_cast<size_t>(2 * depth + 4), ' ');
  std::string profiles;
  for (const clip_edge_plugin_profile &profile : graph.profiles)
    profiles += (profiles.empty() ? "[\n" : ",\n") + inner +
                Table(depth + 3).add("min", profile.least).add("opt", profile.best).add("max", profile.most).text();
  const Table settings = Table(depth + 1)
                             .add("profiles", profiles + "\n" + end + "]")
                             .add("optimization_level", graph.optimization_level)
                             .add("tf32", graph.tf32 ? "true" : "false")
                             .add("strongly_typed", "true");
  return Table(depth)
      .add("graph_sha256", quoted(graph.sha256))
      .add("library", quoted(key.library))
      .add("version", quoted(key.version))
      .add("device", quoted(key.device))
      .add("capability", quoted(key.capability))
      .add("system", quoted(system_name()))
      .add("settings", settings.text())
      .text();
}

std::string default_folder() {
  const char *chosen = std::getenv("CLIP_EDGE_ENGINES"), *base = std::getenv("XDG_CACHE_HOME");
  if (chosen != nullptr && *chosen != '\0') return chosen;
  if (base != nullptr && *base != '\0') return std::string(base) + "/clip-edge/engines";
  const char *home = std::getenv("HOME");
  if (home == nullptr || *home == '\0')
    fail(CLIP_EDGE_ERROR_IO, "no folder for engines: name one in `engines` or CLIP_EDGE_ENGINES");
  return std::string(home) + "/.cache/clip-edge/engines";
}

void refuse_open_folder(const std::string &folder) {
  struct stat info;
  if (stat(folder.c_str(), &info) != 0) return;
  if ((info.st_uid != getuid() && info.st_uid != 0) || (info.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    fail(CLIP_EDGE_ERROR_IO, "%s: others may write into the folder of engines, which hold machine code",
         folder.c_str());
}

void make_folders(const std::string &folder) {
  for (size_t at = folder.find('/', 1); at != std::string::npos; at = folder.find('/', at + 1))
    mkdir(folder.substr(0, at).c_str(), 0700);  // the last one tells what is wrong
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
    fail(CLIP_EDGE_ERROR_IO, "%s: %s", folder.c_str(), std::strerror(errno));
}

// Readers see the old file or the new one, and nobody else may read it.
void write_whole(const std::string &path, const std::string &bytes) {
  const std::string partial = path + ".partial-" + std::to_string(getpid());
  bool whole = false;
  {
    const Descriptor file(open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    size_t done = 0;
    while (file.get() >= 0 && done < bytes.size()) {
      const ssize_t count = write(file.get(), bytes.data() + done, bytes.size() - done);
      if (count < 0 && errno != EINTR) break;
      done += count < 0 ? 0 : static_cast<size_t>(count);
    }
    whole = file.get() >= 0 && done == bytes.size() && fsync(file.get()) == 0;
  }
  if (whole && rename(partial.c_str(), path.c_str()) == 0) return;
  const int reason = errno;
  unlink(partial.c_str());
  fail(CLIP_EDGE_ERROR_IO, "%s: %s", path.c_str(), std::strerror(reason));
}

std::string name_of(const EngineGraph &graph, const EngineKey &key) {
  return sha256_hex(key_text(graph, key, 0) + "\n").substr(0, kNameDigits);
}

// The file beside an engine: whose it is, and the hash of its bytes.
struct Entry {
  std::string graph_sha256, sha256;
  EngineKey key;
  int64_t workspace_bytes;
};

Entry parse_entry(std::string text, const std::string &where) {
  const JsonDocument document(std::move(text), where);
  const Json root = document.root(), key = root["key"];
  const auto word = [&](const char *name) { return std::string(key[name].string()); };
  return {word("graph_sha256"), std::string(root["engine_sha256"].string()),
          {word("library"), word("version"), word("device"), word("capability")},
          root["workspace_bytes"].integer(0, int64_t{1} << 40)};
}

}  // namespace

EngineCache::EngineCache(const std::string &folder) : folder_(folder.empty() ? default_folder() : folder) {}

std::string EngineCache::file(const EngineGraph &graph, const EngineKey &key) const {
  return folder_ + "/" + name_of(graph, key) + ".engine";
}

std::string EngineCache::find(const EngineGraph &graph, const EngineKey &key, std::string &reason) const {
  refuse_open_folder(folder_);
  const std::string name = name_of(graph, key), record = folder_ + "/" + name + ".json";
  if (access(record.c_str(), F_OK) != 0) return reason = "not built yet", "";
  try {
    const std::unique_ptr<Source> folder = open_folder(folder_);
    const Entry entry = parse_entry(folder->read(name + ".json", kMostEntryBytes), record);
    const EngineKey &of = entry.key;
    if (entry.graph_sha256 != graph.sha256 || of.library != key.library || of.version != key.version ||
        of.device != key.device || of.capability != key.capability)
      return reason = "the entry belongs to another engine", "";
    std::string engine = folder->read(name + ".engine", kMostEngineBytes);
    if (sha256_hex(engine) != entry.sha256) return reason = "the engine was changed: its hash differs", "";
    reason = entry.workspace_bytes == graph.workspace_bytes ? "" : "another memory limit";
    return engine;
  } catch (const Error &error) {
    return reason = "the entry is damaged (" + error.text + ")", "";
  }
}

bool EngineCache::has(const EngineGraph &graph, const EngineKey &key, std::string &reason) const {
  return !find(graph, key, reason).empty() && reason.empty();
}

void EngineCache::store(const EngineGraph &graph, const EngineKey &key, const std::string &engine,
                        uint64_t build_ns) const {
  make_folders(folder_);
  refuse_open_folder(folder_);
  Table layers(1);
  for (const auto &[precision, count] : graph.layers) layers.add(precision, count);
  const uint64_t build_ms = build_ns / 1000000;
  char seconds[40];
  std::snprintf(seconds, sizeof(seconds), "%llu.%03llu", static_cast<unsigned long long>(build_ms / 1000),
                static_cast<unsigned long long>(build_ms % 1000));
  const std::string entry = Table(0)
                                .add("key", key_text(graph, key, 1))
                                .add("graph", quoted(graph.path))
                                .add("engine_sha256", quoted(sha256_hex(engine)))
                                .add("engine_bytes", static_cast<int64_t>(engine.size()))
                                .add("workspace_bytes", graph.workspace_bytes)
                                .add("build_s", std::string(seconds))
                                .add("layers", layers.text())
                                .text();
  const std::string record = folder_ + "/" + name_of(graph, key) + ".json";
  unlink(record.c_str());  // half a pair is never found: the engine first, then what names it
  write_whole(file(graph, key), engine);
  write_whole(record, entry + "\n");
}

}  // namespace clip_edge::core
