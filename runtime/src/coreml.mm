// Core ML, on Apple's systems only: the packages of a bundle, compiled by the system when they are opened.
#import <CoreML/CoreML.h>
#import <CoreVideo/CoreVideo.h>
#import <Foundation/Foundation.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "backend.h"
#include "status.h"

namespace clip_edge::core {
namespace {

constexpr size_t kMostFileBytes = size_t{4} << 30;

NSString *text_of(const std::string &text) { return [NSString stringWithUTF8String:text.c_str()]; }

[[noreturn]] void fail_with(const char *verb, const Artifact &artifact, NSError *error) {
  const char *reason = error == nil ? "no reason given" : error.localizedDescription.UTF8String;
  fail(CLIP_EDGE_ERROR_BACKEND, "Core ML cannot %s %s: %.400s", verb, artifact.path.c_str(), reason);
}

// A folder of our own that goes when its owner goes.
class Scratch {
 public:
  Scratch() {
    NSString *name = [@"clip-edge-" stringByAppendingString:NSUUID.UUID.UUIDString];
    url_ = [[NSURL fileURLWithPath:NSTemporaryDirectory()] URLByAppendingPathComponent:name isDirectory:YES];
  }
  ~Scratch() { [NSFileManager.defaultManager removeItemAtURL:url_ error:nil]; }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  NSURL *url() const { return url_; }

 private:
  NSURL *url_;
};

// Core ML loads from a folder, so the files whose hashes were checked are copied to one of our own.
NSURL *copy_package(const Bundle &bundle, const Artifact &artifact, NSURL *folder) {
  NSURL *package = [folder URLByAppendingPathComponent:@"tower.mlpackage" isDirectory:YES];
  const std::string start = artifact.path + "/";
  for (const auto &[name, file] : bundle.manifest().files) {
    if (name.compare(0, start.size(), start) != 0) continue;
    const std::string bytes = bundle.read(name, kMostFileBytes);
    NSURL *to = [package URLByAppendingPathComponent:text_of(name.substr(start.size()))];
    NSError *error = nil;
    NSData *data = [NSData dataWithBytes:bytes.data() length:bytes.size()];
    if (![NSFileManager.defaultManager createDirectoryAtURL:to.URLByDeletingLastPathComponent
                                withIntermediateDirectories:YES
                                                 attributes:nil
                                                      error:&error] ||
        ![data writeToURL:to options:0 error:&error])
      fail_with("copy", artifact, error);
  }
  return package;
}

class CoreMlTower : public Tower {
 public:
  CoreMlTower(const Bundle &bundle, const Artifact &artifact, const TowerShape &shape)
      : spec_(bundle.manifest().preprocess), artifact_(artifact), shape_(shape) {
    @autoreleasepool {
      const Scratch scratch;
      NSError *error = nil;
      NSURL *compiled = [MLModel compileModelAtURL:copy_package(bundle, artifact, scratch.url()) error:&error];
      if (compiled == nil) fail_with("compile", artifact, error);
      MLModelConfiguration *how = [[MLModelConfiguration alloc] init];
      model_ = [MLModel modelWithContentsOfURL:compiled configuration:how error:&error];
      if (@available(iOS 18.0, macOS 15.0, *)) {
        if (model_ == nil) {  // a package with both towers: each is a function of its own
          how.functionName = text_of(artifact.tower);
          model_ = [MLModel modelWithContentsOfURL:compiled configuration:how error:&error];
        }
      }
      [NSFileManager.defaultManager removeItemAtURL:compiled error:nil];
      if (model_ == nil) fail_with("load", artifact, error);
    }
  }

  void run(const void *input, size_t count, float *out) const override {
    for (size_t row = 0; row < count; row++)
      run_row(static_cast<const char *>(input) + row * shape_.row_bytes, out + row * static_cast<size_t>(shape_.dim));
  }

 private:
  void run_row(const void *row, float *out) const {
    @autoreleasepool {
      NSError *error = nil;
      NSString *name = text_of(artifact_.input);
      MLFeatureValue *value = artifact_.tower == "image" ? picture(row) : sentence(row);
      MLDictionaryFeatureProvider *features = [[MLDictionaryFeatureProvider alloc] initWithDictionary:@{name : value}
                                                                                                error:&error];
      id<MLFeatureProvider> found = features == nil ? nil : [model_ predictionFromFeatures:features error:&error];
      MLMultiArray *embed = [found featureValueForName:text_of(artifact_.output)].multiArrayValue;
      if (embed == nil) fail_with("run", artifact_, error);
      if (embed.count != shape_.dim)
        fail(CLIP_EDGE_ERROR_BACKEND, "%s: %d numbers expected; found %ld", artifact_.path.c_str(), shape_.dim,
             static_cast<long>(embed.count));
      for (NSInteger d = 0; d < embed.count; d++) out[d] = embed[d].floatValue;  // copied: its memory is Core ML's
    }
  }

  // Normalised values -> the bytes that they were made of: the graph itself normalises.
  MLFeatureValue *picture(const void *row) const {
    const auto *values = static_cast<const float *>(row);
    const auto side = static_cast<size_t>(spec_.size);
    CVPixelBufferRef buffer = nullptr;
    if (CVPixelBufferCreate(kCFAllocatorDefault, side, side, kCVPixelFormatType_32BGRA, nullptr, &buffer) !=
        kCVReturnSuccess)
      throw std::bad_alloc();
    CVPixelBufferLockBaseAddress(buffer, 0);
    auto *base = static_cast<uint8_t *>(CVPixelBufferGetBaseAddress(buffer));
    const size_t stride = CVPixelBufferGetBytesPerRow(buffer);
    for (size_t y = 0; y < side; y++)
      for (size_t x = 0; x < side; x++) {
        uint8_t *pixel = base + y * stride + 4 * x;
        for (size_t c = 0; c < 3; c++) {
          const float value = values[(c * side + y) * side + x] * spec_.std[c] + spec_.mean[c];
          pixel[2 - c] = static_cast<uint8_t>(std::clamp(std::lround(value * 255), 0L, 255L));
        }
        pixel[3] = 255;
      }
    CVPixelBufferUnlockBaseAddress(buffer, 0);
    MLFeatureValue *value = [MLFeatureValue featureValueWithPixelBuffer:buffer];
    CVPixelBufferRelease(buffer);
    return value;
  }

  MLFeatureValue *sentence(const void *row) const {
    NSError *error = nil;
    MLMultiArray *ids = [[MLMultiArray alloc] initWithShape:@[ @1, @(shape_.shape[0]) ]
                                                   dataType:MLMultiArrayDataTypeInt32
                                                      error:&error];
    if (ids == nil) fail_with("run", artifact_, error);
    std::memcpy(ids.dataPointer, row, shape_.row_bytes);
    return [MLFeatureValue featureValueWithMultiArray:ids];
  }

  clip_edge_preprocess_spec spec_;
  Artifact artifact_;
  TowerShape shape_;
  MLModel *model_;
};

}  // namespace

std::unique_ptr<Tower> open_coreml(const EngineOptions &, const Bundle &bundle, const Artifact &artifact,
                                   const TowerShape &shape) {
  return std::make_unique<CoreMlTower>(bundle, artifact, shape);
}

}  // namespace clip_edge::core
