// PNG through libpng's own interface, its functions found at run time. It only unpacks: what the samples mean is
// decided here, as Pillow does, because libpng's conversions round differently and obey gamma.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include "picture.h"
#include "shared_library.h"

namespace clip_edge::core {
namespace {

// Opaque types, and constants of png.h.
struct Png;
struct PngInfo;
struct PngColour {
  uint8_t red, green, blue;
};
struct PngKey {
  uint8_t index;
  uint16_t red, green, blue, grey;
};
enum ColourType { kGrey = 0, kRgb = 2, kPalette = 3, kGreyAlpha = 4, kRgbAlpha = 6 };
constexpr int kErrorQuit = 1, kChunkNever = 1;
constexpr uint32_t kHasKey = 0x10;

struct LibPng {
  using OnMessage = void (*)(Png *, const char *);
  const char *(*version)(const Png *);
  Png *(*create)(const char *version, void *user, OnMessage error, OnMessage warning);
  PngInfo *(*create_info)(Png *);
  void (*destroy)(Png **, PngInfo **, PngInfo **);
  void *(*error_user)(const Png *);
  void *(*read_user)(const Png *);
  void (*set_read)(Png *, void *user, void (*read)(Png *, uint8_t *, size_t));
  void (*set_crc)(Png *, int critical, int ancillary);
  void (*set_keep)(Png *, int keep, const uint8_t *names, int count);
  void (*read_info)(Png *, PngInfo *);
  uint8_t (*bit_depth)(const Png *, const PngInfo *);
  uint8_t (*colour_type)(const Png *, const PngInfo *);
  uint32_t (*palette)(const Png *, PngInfo *, PngColour **, int *count);
  uint32_t (*key)(const Png *, PngInfo *, uint8_t **alpha, int *count, PngKey **);
  void (*set_packing)(Png *);
  void (*set_grey_bytes)(Png *);
  void (*set_strip_16)(Png *);
  void (*set_grey_to_rgb)(Png *);
  int (*set_interlace)(Png *);
  void (*update_info)(Png *, PngInfo *);
  size_t (*row_bytes)(const Png *, const PngInfo *);
  void (*read_image)(Png *, uint8_t **rows);

  LibPng() {
    constexpr const char *kAdvice =
        "PNG needs libpng 1.6 (Debian and Ubuntu libpng16-16 or libpng16-16t64, Fedora, Alpine, Arch and Homebrew libpng)";
#if defined(__APPLE__)
    const SharedLibrary library({"libpng16.16.dylib", "/opt/homebrew/opt/libpng/lib/libpng16.16.dylib"}, kAdvice);
#else
    const SharedLibrary library({"libpng16.so.16", "libpng16.so", "libpng.so"}, kAdvice);
#endif
    library.load(version, "png_get_libpng_ver"), library.load(create, "png_create_read_struct");
    library.load(create_info, "png_create_info_struct"), library.load(destroy, "png_destroy_read_struct");
    library.load(error_user, "png_get_error_ptr"), library.load(read_user, "png_get_io_ptr");
    library.load(set_read, "png_set_read_fn"), library.load(set_crc, "png_set_crc_action");
    library.load(set_keep, "png_set_keep_unknown_chunks"), library.load(read_info, "png_read_info");
    library.load(bit_depth, "png_get_bit_depth"), library.load(colour_type, "png_get_color_type");
    library.load(palette, "png_get_PLTE"), library.load(key, "png_get_tRNS");
    library.load(set_packing, "png_set_packing"), library.load(set_strip_16, "png_set_strip_16");
    library.load(set_grey_bytes, "png_set_expand_gray_1_2_4_to_8");
    library.load(set_grey_to_rgb, "png_set_gray_to_rgb");
    library.load(set_interlace, "png_set_interlace_handling"), library.load(update_info, "png_read_update_info");
    library.load(row_bytes, "png_get_rowbytes"), library.load(read_image, "png_read_image");
  }

  static const LibPng &get() {
    static const LibPng library;  // tried again at the next picture where it throws
    return library;
  }
};

// All that a decoding needs. It outlives the jump that an error makes, so nothing in it is lost.
struct Decoding {
  const LibPng &lib;
  const uint8_t *next, *end;  // of the file
  Png *png = nullptr;
  PngInfo *info = nullptr;
  std::jmp_buf failed;
  char error[200] = "out of memory";

  int depth = 0, colour = 0;
  bool has_key = false;
  PngKey key{};
  uint8_t palette[256][4] = {};  // RGBA
  size_t row_bytes = 0;
  Buffer samples{0};
  std::vector<uint8_t *> rows;

  Decoding(const LibPng &library, const uint8_t *bytes, size_t size) : lib(library), next(bytes), end(bytes + size) {}
  ~Decoding() {
    if (png != nullptr) lib.destroy(&png, &info, nullptr);
  }
};

void on_error(Png *png, const char *text) {
  auto *decoding = static_cast<Decoding *>(LibPng::get().error_user(png));
  std::snprintf(decoding->error, sizeof(decoding->error), "%s", text);
  std::longjmp(decoding->failed, 1);
}

void on_warning(Png *, const char *) {}

void read_bytes(Png *png, uint8_t *to, size_t count) {
  auto *decoding = static_cast<Decoding *>(LibPng::get().read_user(png));
  if (static_cast<size_t>(decoding->end - decoding->next) < count) on_error(png, "it is cut off");
  std::memcpy(to, decoding->next, count);
  decoding->next += count;
}

// No objects in here: an error jumps out of it.
void take_colours(Decoding &d) {
  PngColour *colours = nullptr;
  uint8_t *alpha = nullptr;
  PngKey *key = nullptr;
  int count = 0, alphas = 0;
  d.has_key = (d.lib.key(d.png, d.info, &alpha, &alphas, &key) & kHasKey) != 0;
  if (d.has_key && key != nullptr) d.key = *key;
  if (d.colour != kPalette) return;
  d.lib.palette(d.png, d.info, &colours, &count);
  for (int i = 0; i < 256; i++) d.palette[i][3] = 255;  // a colour that is not there is black
  for (int i = 0; i < count && i < 256; i++)
    d.palette[i][0] = colours[i].red, d.palette[i][1] = colours[i].green, d.palette[i][2] = colours[i].blue;
  for (int i = 0; d.has_key && alpha != nullptr && i < alphas && i < 256; i++) d.palette[i][3] = alpha[i];
}

// False where libpng refused. The same rule: whatever is jumped over needs no destructor.
bool read_settings(Decoding &d) {
  if (setjmp(d.failed) != 0) return false;
  d.info = d.lib.create_info(d.png);
  if (d.info == nullptr) return false;
  d.lib.set_read(d.png, &d, read_bytes);
  d.lib.set_crc(d.png, kErrorQuit, kErrorQuit);
  d.lib.set_keep(d.png, kChunkNever, nullptr, -1);  // profiles and texts: not unpacked, so no bombs
  d.lib.read_info(d.png, d.info);
  d.depth = d.lib.bit_depth(d.png, d.info), d.colour = d.lib.colour_type(d.png, d.info);
  take_colours(d);
  if (d.colour == kPalette) d.lib.set_packing(d.png);
  if (d.colour == kGrey && d.depth < 8) d.lib.set_grey_bytes(d.png);
  if (d.depth == 16 && !(d.colour == kGrey && d.has_key)) d.lib.set_strip_16(d.png);
  if (d.colour == kGreyAlpha) d.lib.set_grey_to_rgb(d.png);
  d.lib.set_interlace(d.png);
  d.lib.update_info(d.png, d.info);
  d.row_bytes = d.lib.row_bytes(d.png, d.info);
  return true;
}

bool read_rows(Decoding &d) {
  if (setjmp(d.failed) != 0) return false;
  d.lib.read_image(d.png, d.rows.data());
  return true;
}

// One row of samples with a key or a palette -> RGBA. Pillow compares the low byte of a key with the 8-bit sample, and
// we with it; clip_edge/images.py compares grey of 16 bits as a whole.
void expand_row(const Decoding &d, const uint8_t *in, int width, uint8_t *out) {
  const int one_bit = d.key.grey != 0 ? 255 : 0, key = d.depth == 1 ? one_bit : d.key.grey & 255;
  for (int x = 0; x < width; x++, out += 4) {
    if (d.colour == kPalette) {
      std::memcpy(out, d.palette[in[x]], 4);
    } else if (d.colour == kRgb) {
      std::memcpy(out, in + 3 * x, 3);
      const bool clear = out[0] == (d.key.red & 255) && out[1] == (d.key.green & 255) && out[2] == (d.key.blue & 255);
      out[3] = clear ? 0 : 255;
    } else {
      const bool deep = d.depth == 16;
      out[0] = out[1] = out[2] = deep ? in[2 * x] : in[x];
      out[3] = (deep ? in[2 * x] << 8 | in[2 * x + 1] : in[x]) == (deep ? d.key.grey : key) ? 0 : 255;
    }
  }
}

}  // namespace

Picture decode_png(const uint8_t *bytes, size_t size, const PictureHeader &header) {
  const LibPng &lib = LibPng::get();
  Decoding d(lib, bytes, size);
  const auto refuse = [&] { fail(CLIP_EDGE_ERROR_PICTURE, "the PNG cannot be decoded: %s", d.error); };
  d.png = lib.create(lib.version(nullptr), &d, on_error, on_warning);
  if (d.png == nullptr || !read_settings(d)) refuse();
  const size_t width = static_cast<size_t>(header.width), height = static_cast<size_t>(header.height);
  const size_t channels = d.row_bytes / width;
  d.samples = Buffer(d.row_bytes * height);
  for (size_t y = 0; y < height; y++) d.rows.push_back(&d.samples.bytes[y * d.row_bytes]);
  if (!read_rows(d)) refuse();

  Picture picture;
  clip_edge_image_init(&picture.image, sizeof(picture.image));
  picture.image.format = channels == 1   ? CLIP_EDGE_PIXELS_GREY
                         : channels == 3 ? CLIP_EDGE_PIXELS_RGB
                                         : CLIP_EDGE_PIXELS_RGBA;
  if (d.colour == kPalette || d.has_key) {
    picture.pixels = Buffer(4 * width * height);
    for (size_t y = 0; y < height; y++) expand_row(d, d.rows[y], header.width, &picture.pixels.bytes[4 * width * y]);
    picture.image.format = CLIP_EDGE_PIXELS_RGBA;
  } else {
    picture.pixels = std::move(d.samples);
  }
  picture.image.plane[0] = picture.pixels.bytes.get();
  picture.image.width = header.width, picture.image.height = header.height;
  picture.image.orientation = header.orientation;
  return picture;
}

}  // namespace clip_edge::core
