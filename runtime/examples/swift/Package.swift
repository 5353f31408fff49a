// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "ClipEdge",
    platforms: [.iOS(.v14), .macOS(.v11)],
    products: [.library(name: "ClipEdge", targets: ["ClipEdge"])],
    dependencies: [
        .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0")
    ],
    targets: [
        .binaryTarget(name: "CClipEdge", path: "clip_edge.xcframework"),  // scripts/xcframework makes it
        .target(
            name: "ClipEdge",
            dependencies: [
                "CClipEdge", .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager"),
            ],
            // ONNX Runtime is linked into the app, and found by this name when the first model is opened
            linkerSettings: [.linkedLibrary("c++"), .unsafeFlags(["-Xlinker", "-u", "-Xlinker", "_OrtGetApiBase"])]),
        .testTarget(  // put a bundle folder beside the test, under the name `bundle`
            name: "ClipEdgeBench", dependencies: ["ClipEdge", "CClipEdge"], resources: [.copy("bundle")]),
    ]
)
