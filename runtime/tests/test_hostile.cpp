// Files and frames from somebody with bad intentions: whatever the bytes, a call ends with a status. Run it under the
// address sanitizer to see that it also stays inside of its memory.
#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "bundle.h"
#include "check.h"
#include "golden.h"
#include "sha256.h"
#include "sha256_simd.h"
#include "status.h"
#include "unicode.h"

using namespace clip_edge::core;

namespace {

std::mt19937 random_source(23);

int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_source); }

std::string damaged(std::string text) {
  static const std::string interesting = "{}[]\",:\\-0919eE.u\xff\xc3";
  for (int round = random_int(1, 6); round > 0 && !text.empty(); round--) {
    const size_t at = static_cast<size_t>(random_int(0, static_cast<int>(text.size()) - 1));
    switch (random_int(0, 3)) {
      case 0: text[at] = static_cast<char>(random_int(0, 255)); break;
      case 1:
        text[at] = interesting[static_cast<size_t>(random_int(0, static_cast<int>(interesting.size()) - 1))];
        break;
      case 2: text.erase(at, static_cast<size_t>(random_int(1, 9))); break;
      default: text.insert(at, text.substr(at, static_cast<size_t>(random_int(1, 40)))); break;
    }
  }
  return text;
}

std::string tokenizer_json() {
  std::string vocabulary;
  int next = 256;
  for (int byte = 0, id = 0; byte < 256; byte++) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string name;
    append_utf8(name, static_cast<char32_t>(printable ? byte : next++));
    vocabulary +=
        std::string("\"") + (name == "\"" || name == "\\" ? "\\" : "") + name + "\":" + std::to_string(id++) + ",";
  }
  return R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Lowercase"},{"type":"Replace",)"
         R"("pattern":{"Regex":"\\s+"},"content":" "},{"type":"Strip"}]},"pre_tokenizer":{"type":"Sequence",)"
         R"("pretokenizers":[{"type":"Split","pattern":{"Regex":" ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|[a-f]{2,3}"},)"
         R"("behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},)"
         R"("model":{"type":"BPE","vocab":{)" +
         vocabulary + R"("ab":256,"abc":257},"merges":[["a","b"],["ab","c"]]}})";
}

std::string unigram_json() {
  return R"({"added_tokens":[{"id":6,"content":"<x>","lstrip":true,"rstrip":false,"normalized":false,"special":true},)"
         R"({"id":3,"content":"bb","normalized":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":)"
         R"("Precompiled","precompiled_charsmap":"DAAAAACAAQBhDQAAAAAAgGIA"},{"type":"Nmt"},{"type":"Prepend","prepend":"_"}]},)"
         R"("pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":true},)"
         R"("model":{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<unk>",0],["_",-2.5],["b",-3.25],)"
         R"(["bb",-3.5],["<0x41>",-9],["c",-1e1]]}})";
}

std::string word_piece_json() {
  return R"({"added_tokens":[{"id":0,"content":"[UNK]","special":true}],"normalizer":{"type":"BertNormalizer",)"
         R"("clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":)"
         R"("BertPreTokenizer"},"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}}]},)"
         R"("model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":9,)"
         R"("vocab":{"[UNK]":0,"a":1,"##b":2,"##bc":3,"f":4}}})";
}

std::string character_bpe_json() {
  return R"({"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"_"},"pre_tokenizer":{"type":"Split",)"
         R"("pattern":{"String":"_"},"behavior":"MergedWithPrevious","invert":false},"model":{"type":"BPE","unk_token":)"
         R"("?","fuse_unk":true,"byte_fallback":true,"vocab":{"?":0,"a":1,"b":2,"ab":3,"_":4,"ab_":5,"<0x41>":6},)"
         R"("merges":[["a","b"],["ab","_"]]}})";
}

void damaged_tokenizers_end_in_a_status(const std::string &whole, int rounds) {
  const size_t settings = whole.find("\"model\"");
  clip_edge_text_spec spec;
  clip_edge_text_spec_init(&spec, sizeof(spec));
  spec.context_length = 16, spec.vocab_size = 300, spec.bos_id = 298, spec.eos_id = 299;
  clip_edge_tokenizer *sound = nullptr;
  CHECK(clip_edge_tokenizer_new(whole.data(), whole.size(), &spec, &sound) == CLIP_EDGE_OK);
  clip_edge_tokenizer_free(sound);
  int opened = 0;
  for (int round = 0; round < rounds; round++) {
    const bool head_only = round % 2 == 0;  // half of them where the structure is, half anywhere
    const std::string json = head_only ? damaged(whole.substr(0, settings)) + whole.substr(settings) : damaged(whole);
    clip_edge_tokenizer *tokenizer = nullptr;
    int32_t ids[16];
    if (clip_edge_tokenizer_new(json.data(), json.size(), &spec, &tokenizer) == CLIP_EDGE_OK) {
      opened++;
      const std::string text = damaged("abc ABC  f\xc3\xa9 &amp; \xe2\x80\x99s ﬁn");
      const clip_edge_status status = clip_edge_tokenize(tokenizer, text.data(), text.size(), ids, 16);
      CHECK(status != CLIP_EDGE_ERROR_INTERNAL);
    } else {
      CHECK(tokenizer == nullptr && clip_edge_last_error()[0] != '\0');
    }
    clip_edge_tokenizer_free(tokenizer);
  }
  std::printf("tokenizers: %d of %d damaged files still made sense\n", opened, rounds);
}

std::string manifest_json(const std::string &body) {
  const std::string zeros(64, '0'), head = "{\"manifest_sha256\":\"";
  const std::string hash = sha256_hex(head + zeros + "\"," + body);
  return head + hash + "\"," + body;
}

// The hash is always right here, so that the reader behind it is reached.
void damaged_manifests_end_in_a_status(int rounds) {
  const std::string body =
      R"("schema":1,"name":"tiny","created_by":"test","embedding":{"space":"00ff","dim":8,"normalized":true,"logit_scale":14.2,)"
      R"("logit_bias":null},"image":{"preprocess":{"size":32,"resize":"shortest","interpolation":"bicubic","mean":[0.5,0.5,0.5],)"
      R"("std":[0.5,0.5,0.5]},"crop":"center","channel_order":"RGB","layout":"NCHW","pixel_scale":0.00392156862745098,)"
      R"("antialias":true},"text":{"tokenizer":{"context_length":16,"vocab_size":300,"pad_id":0,"bos_id":1,"eos_id":2,)"
      R"("clean":"none"},"causal":false,"pad_mask":true,"pooling":"eos","activation":"gelu"},"artifacts":[{"tower":"image",)"
      R"("target":"onnx","precision":"fp32","path":"onnx/v.onnx","input":"pixel_values","input_dtype":"float32",)"
      R"("output":"image_embeds","batch":null,"opset":18,"parameters":1,"verification":null}],"licences":[],)"
      R"("research_only":false,"source":{},"versions":{},"files":{"onnx/v.onnx":{"sha256":"00","bytes":7}}})";
  CHECK(parse_manifest(manifest_json(body), "m").artifacts.size() == 1);
  int accepted = 0;
  for (int round = 0; round < rounds; round++) {
    try {
      const Manifest manifest = parse_manifest(manifest_json(damaged(body)), "m");
      accepted++;
      CHECK(manifest.preprocess.size >= 1 && manifest.dim >= 1 && manifest.text.context_length >= 3);
    } catch (const Error &error) {
      CHECK(error.status != CLIP_EDGE_ERROR_INTERNAL && !error.text.empty());
    }
  }
  std::printf("manifests: %d of %d damaged ones still made sense\n", accepted, rounds);
}

Manifest golden_manifest() {
  Manifest manifest;
  clip_edge_preprocess_spec_init(&manifest.preprocess, sizeof(manifest.preprocess));
  clip_edge_text_spec_init(&manifest.text, sizeof(manifest.text));
  manifest.preprocess.size = 2, manifest.text.context_length = 3, manifest.dim = 2;
  return manifest;
}

std::string with_length(const std::string &header, const std::string &data) {
  std::string file;
  for (size_t i = 0; i < 8; i++) file.push_back(static_cast<char>(header.size() >> (8 * i) & 255));
  return file + header + data;
}

// One picture of 3 x 1, the texts "a" and "b", 3 ids and 2 floats for each; the data is all zeros but for the texts.
void damaged_golden_files_end_in_a_status(int rounds) {
  const std::string header =
      R"({"__metadata__":{"format":"np"},"input_ids":{"dtype":"I64","shape":[2,3],"data_offsets":[0,48]},)"
      R"("image_embeds":{"dtype":"F32","shape":[1,2],"data_offsets":[48,56]},)"
      R"("text_embeds":{"dtype":"F32","shape":[2,2],"data_offsets":[56,72]},)"
      R"("image.000":{"dtype":"U8","shape":[1,3,3],"data_offsets":[72,81]},)"
      R"("pixels":{"dtype":"U8","shape":[1,2,2,3],"data_offsets":[81,93]},)"
      R"("texts":{"dtype":"U8","shape":[9],"data_offsets":[93,102]}})";
  const std::string data = std::string(93, '\0') + R"(["a","b"])";
  const Manifest manifest = golden_manifest();
  const Golden golden = parse_golden(with_length(header, data), manifest, "g");
  CHECK(golden.pictures.size() == 1 && golden.pictures[0].width == 3 && golden.pictures[0].height == 1);
  CHECK(golden.texts.size() == 2 && golden.texts[1] == "b" && golden.input_ids.size() == 6);
  int accepted = 0;
  for (int round = 0; round < rounds; round++) {
    const std::string file = round % 3 == 0   ? damaged(with_length(header, data))
                             : round % 3 == 1 ? with_length(damaged(header), data)
                                              : with_length(header, damaged(data));
    try {
      const Golden found = parse_golden(file, manifest, "g");
      accepted++;
      const Golden::Picture &picture = found.pictures[0];
      CHECK(picture.start + 3 * static_cast<size_t>(picture.width) * picture.height <= file.size());
      CHECK(found.pixels_start + 12 <= file.size() && found.input_ids.size() == 3 * found.texts.size());
    } catch (const Error &error) {
      CHECK(error.status != CLIP_EDGE_ERROR_INTERNAL && !error.text.empty());
    }
  }
  std::printf("golden files: %d of %d damaged ones still made sense\n", accepted, rounds);
}

void golden_lies_are_told() {
  const Manifest manifest = golden_manifest();
  const auto refusal = [&](const std::string &file) -> std::string {
    try {
      parse_golden(file, manifest, "g");
      return "accepted";
    } catch (const Error &error) {
      return error.text;
    }
  };
  CHECK_TEXT(refusal(""), "g: not a safetensors file: its header does not fit");
  CHECK_TEXT(refusal(std::string(8, '\xff')), "g: not a safetensors file: its header does not fit");
  CHECK_TEXT(refusal(with_length("{}", "")), "g: 1 to 4096 pictures expected; found 0");
  CHECK_TEXT(refusal(with_length("{}", "x")), "g: not a safetensors file: something follows its tensors");
  CHECK_TEXT(refusal(with_length(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "xyz")),
             "g: not a safetensors file: its tensors overlap or leave a gap");
  CHECK_TEXT(refusal(with_length(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,3]}})", "xyz")),
             "g: not a safetensors file: a tensor's size differs from its shape");
  CHECK_TEXT(refusal(with_length(
                 R"({"a":{"dtype":"I64","shape":[268435456,268435456,268435456,0],"data_offsets":[0,0]}})", "")),
             "g: not a safetensors file: a tensor is too large");
  CHECK_TEXT(refusal(with_length(R"({"image.001":{"dtype":"U8","shape":[1,1,3],"data_offsets":[0,3]}})", "xyz")),
             "g: missing tensor: `image.000`");
  CHECK_TEXT(refusal(with_length(R"({"image.000":{"dtype":"U8","shape":[1,3,1],"data_offsets":[0,3]}})", "xyz")),
             "g: `image.000` must be U8 of shape (any, any, 3); found U8 (1, 3, 1)");
}

// Any numbers in the structures; the buffers are exactly as large as the structures say.
void random_frames_end_in_a_status(int rounds) {
  for (int round = 0; round < rounds; round++) {
    clip_edge_image image;
    clip_edge_image_init(&image, sizeof(image));
    clip_edge_preprocess_spec spec;
    clip_edge_preprocess_spec_init(&spec, sizeof(spec));
    spec.size = random_int(-1, 20);
    spec.resize = static_cast<clip_edge_resize>(random_int(0, 2));
    spec.interpolation = static_cast<clip_edge_interpolation>(random_int(0, 1));
    image.width = random_int(-1, 40), image.height = random_int(-1, 40);
    image.format = static_cast<clip_edge_pixel_format>(random_int(0, 7));
    image.orientation = random_int(-1, 10);
    std::vector<std::vector<uint8_t>> planes(3);
    for (int p = 0; p < 3; p++) {
      const int bytes[3] = {image.format <= 1 ? 3 : image.format <= 3 ? 4 : 1, image.format == 7 ? 1 : 2, 1};
      const int columns = p == 0 ? image.width : (image.width + 1) / 2,
                rows = p == 0 ? image.height : (image.height + 1) / 2;
      image.stride[p] = columns * bytes[p] + random_int(-1, 3);
      const int step = image.stride[p] == 0 ? columns * bytes[p] : image.stride[p];
      planes[static_cast<size_t>(p)].resize(static_cast<size_t>(std::max(1, step * rows)), 77);
      image.plane[p] = random_int(0, 30) == 0 ? nullptr : planes[static_cast<size_t>(p)].data();
    }
    std::vector<uint8_t> out(20 * 20 * 3);
    const clip_edge_status status = clip_edge_resize_image(&spec, &image, out.data(), out.size());
    CHECK(status == CLIP_EDGE_OK || status == CLIP_EDGE_ERROR_INVALID_ARGUMENT);
  }
}

void hashes_are_the_same_in_both_ways() {
  const Sha256Blocks simd = sha256_blocks_simd();
  std::printf("SHA-256: %s\n", simd == nullptr ? "no instructions for it here" : "with instructions for it");
  for (int round = 0; simd != nullptr && round < 200; round++) {
    uint32_t one[8], other[8];
    for (int i = 0; i < 8; i++) one[i] = other[i] = static_cast<uint32_t>(random_int(0, INT32_MAX));
    std::vector<uint8_t> blocks(64 * static_cast<size_t>(random_int(0, 5)) + 1);
    for (uint8_t &byte : blocks) byte = static_cast<uint8_t>(random_int(0, 255));
    sha256_blocks_scalar(one, blocks.data() + 1, blocks.size() / 64);
    simd(other, blocks.data() + 1, blocks.size() / 64);
    CHECK(std::equal(one, one + 8, other));
  }
}

}  // namespace

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 2000;
  for (const std::string &whole : {tokenizer_json(), unigram_json(), word_piece_json(), character_bpe_json()})
    damaged_tokenizers_end_in_a_status(whole, rounds);
  damaged_manifests_end_in_a_status(rounds);
  damaged_golden_files_end_in_a_status(rounds);
  golden_lies_are_told();
  random_frames_end_in_a_status(rounds);
  hashes_are_the_same_in_both_ways();
  CHECK_TEXT(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_TEXT(sha256_hex(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  return finish();
}
