// Binary PPM (P6) and PAM (P7) files, 8 bits a channel: what any converter writes and nothing is needed to read. JPEG
// and PNG files are only recognised: the library reads them when their turn comes.
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <sstream>

#include "cli.h"

namespace clip_edge::cli {
namespace {

constexpr long kMostSide = 65535, kMostPixels = 100000000;

struct Header {
  long width = 0, height = 0, depth = 3, greatest = 0;
};

class Reader {
 public:
  explicit Reader(const std::string &path) : path_(path), file_(std::fopen(path.c_str(), "rb"), std::fclose) {
    if (file_ == nullptr) bad(std::string("cannot read the picture: ") + std::strerror(errno), "check the path");
  }

  bool is_encoded() {
    char start[4] = {};
    const size_t have = std::fread(start, 1, sizeof(start), file_.get());
    std::rewind(file_.get());
    return have == sizeof(start) && (std::memcmp(start, "\xFF\xD8\xFF", 3) == 0 || std::memcmp(start, "\x89PNG", 4) == 0);
  }

  Header header() {
    char kind[2];
    if (std::fread(kind, 1, 2, file_.get()) != 2 || kind[0] != 'P' || (kind[1] != '6' && kind[1] != '7'))
      bad("not a JPEG, PNG, binary PPM or PAM file", "convert it, such as with `ffmpeg -i PICTURE picture.png`");
    Header found = kind[1] == '6' ? ppm() : pam();
    if (found.width < 1 || found.height < 1 || found.width > kMostSide || found.height > kMostSide ||
        found.width * found.height > kMostPixels)
      bad(format("1 to %ld pixels expected; found %ld x %ld", kMostPixels, found.width, found.height),
          "make it smaller");
    if (found.greatest != 255) bad(format("8 bits a channel expected; found MAXVAL %ld", found.greatest), "convert it");
    if (found.depth != 1 && found.depth != 3 && found.depth != 4)
      bad(format("1, 3 or 4 channels expected; found %ld", found.depth), "convert it");
    return found;
  }

  std::vector<uint8_t> pixels(size_t bytes) {
    std::vector<uint8_t> found(bytes);
    const size_t have = std::fread(found.data(), 1, bytes, file_.get());
    if (have != bytes) bad(format("%zu bytes of pixels expected; found %zu", bytes, have), "copy the file again");
    return found;
  }

 private:
  [[noreturn]] void bad(const std::string &what, const char *hint) const {
    throw Failure{kUsage, "DataError", what, path_, hint};
  }

  // The next character, a comment being a line's end; a file that ends here is cut off.
  int next() {
    int found = std::fgetc(file_.get());
    if (found == '#')
      while (found != '\n' && found != EOF) found = std::fgetc(file_.get());
    if (found == EOF) bad("the header is cut off", "copy the file again");
    return found;
  }

  // A number and the one white space behind it.
  long number() {
    int letter = next();
    while (std::isspace(letter)) letter = next();
    long value = 0;
    for (int digits = 0; !std::isspace(letter); letter = next(), digits++) {
      if (!std::isdigit(letter) || digits == 9) bad("the header holds no number where one must be", "convert it again");
      value = 10 * value + letter - '0';
    }
    return value;
  }

  Header ppm() {
    Header found;
    found.width = number(), found.height = number(), found.greatest = number();
    return found;
  }

  Header pam() {
    Header found;
    next();
    for (int lines = 0; lines < 100; lines++) {
      std::string line;
      for (int letter = next(); letter != '\n' && line.size() < 1000; letter = next())
        line += static_cast<char>(letter);
      std::istringstream words(line);
      std::string name;
      long value = 0;
      words >> name;
      if (name == "ENDHDR") return found;
      if (name == "WIDTH" && words >> value) found.width = value;
      if (name == "HEIGHT" && words >> value) found.height = value;
      if (name == "DEPTH" && words >> value) found.depth = value;
      if (name == "MAXVAL" && words >> value) found.greatest = value;
    }
    bad("a PAM header without ENDHDR", "convert it again");
  }

  std::string path_;
  std::unique_ptr<FILE, int (*)(FILE *)> file_;
};

}  // namespace

Picture read_picture(const std::string &path, const Options &options) {
  Reader reader(path);
  if (reader.is_encoded()) {
    Picture encoded{{}, file(path.c_str())};
    encoded.image.decoding = options.decoding;
    return encoded;
  }
  const Header header = reader.header();
  Picture picture{reader.pixels(static_cast<size_t>(header.width * header.height * header.depth)), {}};
  const clip_edge_pixel_format format = header.depth == 1   ? CLIP_EDGE_PIXELS_GREY
                                        : header.depth == 3 ? CLIP_EDGE_PIXELS_RGB
                                                            : CLIP_EDGE_PIXELS_RGBA;
  picture.image = image(picture.pixels.data(), static_cast<int>(header.width), static_cast<int>(header.height), format);
  return picture;
}

}  // namespace clip_edge::cli
